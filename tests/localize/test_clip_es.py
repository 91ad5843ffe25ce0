"""CLIP-ES with a tiny CLIP of random weights, saved and loaded with the hub off."""

from __future__ import annotations

import builtins
import importlib.util

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from wsseg.context import RunContext
from wsseg.data.labels import WeakLabels
from wsseg.data.scores import load_scores
from wsseg.errors import DataError, MissingExtraError, MissingWeightsError, RecipeError
from wsseg.localize.clip_es import ClipEs, clip_es, prompt_groups, spread_by_attention
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.stage import localize
from wsseg.nets.clip_network import ClipNetwork, grad_cam, softmax_gradient
from wsseg.plan import STAGES, plan
from wsseg.preflight import preflight
from wsseg.recipe import load_recipe
from wsseg.rundir import RunDir, StageDir

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype(np.uint8)
NAMES = ("dent", "stain")
BACKGROUND = ("wall", "sky")


@pytest.fixture(autouse=True)
def _hub_off(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def save_clip(folder, positions: int = 48):
    import transformers

    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    end = vocab["<|endoftext|>"]
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    ends = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    settings = transformers.CLIPConfig(
        text_config={"vocab_size": len(vocab), "num_hidden_layers": 2,
                     "max_position_embeddings": positions, **small, **ends},
        vision_config={"num_hidden_layers": 3, "image_size": 32, "patch_size": 8, **small},
        projection_dim=8,
    )  # fmt: skip
    network = transformers.CLIPModel(settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[])
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(), tokenizer)
    processor.save_pretrained(folder)
    return network


@pytest.fixture
def folder(tmp_path):
    save_clip(tmp_path / "clip")
    return str(tmp_path / "clip")


def settings(folder, **changes):
    return ClipEs(model=folder, templates=("a {}.",), background=BACKGROUND, **changes)


def knowing(**changes):
    return LocalizeContext(class_names=NAMES, **changes)


def attention_by_hand(layer, x):
    """Compute one block's attention and its output from the normalised tokens, in float64."""
    inner = layer.self_attn
    split = lambda t: t.reshape(len(t), 2, 8).transpose(0, 1)  # noqa: E731
    q, k, v = (split(part(x)) for part in (inner.q_proj, inner.k_proj, inner.v_proj))
    weights = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)
    return weights, inner.out_proj((weights @ v).transpose(0, 1).reshape(len(x), 16))


def explained_by_hand(network, planes, texts, index, pooling):
    """Differentiate the softmax in float64, block by block, without hooks."""
    net = network.network.double()
    vision = net.vision_model
    tokens = vision.embeddings(planes.double(), interpolate_pos_encoding=True)
    x = vision.pre_layrnorm(tokens)[0]
    attentions = []
    for number, layer in enumerate(vision.encoder.layers):
        inside = layer.layer_norm1(x)
        if number == 2:
            inside = inside.detach().requires_grad_()
        weights, attended = attention_by_hand(layer, inside)
        attentions.append(weights.detach().mean(0)[1:, 1:])
        x = x + attended
        x = x + layer.mlp(layer.layer_norm2(x))
    tokens = vision.post_layernorm(x)
    pooled = tokens[1:].mean(0) if pooling == "patches" else tokens[0]
    feature = normalize(net.visual_projection(pooled), dim=0)
    probabilities = (net.logit_scale.exp() * texts.double() @ feature).softmax(0)
    (gradient,) = torch.autograd.grad(probabilities[index], inside)
    weights = gradient[1:].mean(0)
    return (inside[1:] @ weights).relu().detach(), torch.stack(attentions)


def test_the_softmax_gradient_is_that_of_autograd_up_to_a_factor():
    logits = torch.tensor([1.0, 3.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    for index in range(4):
        (expected,) = torch.autograd.grad(logits.softmax(0)[index], logits)
        torch.testing.assert_close(softmax_gradient(logits, index), expected / expected.max())


def test_a_probability_that_rounds_to_one_still_has_a_gradient():
    logits = torch.tensor([100.0, 1.0, 0.0])
    assert logits.softmax(0)[0] == 1
    expected = -torch.tensor([1.0, 0.0]).double().softmax(0)
    found = softmax_gradient(logits, 0)
    assert found[0] == 1
    torch.testing.assert_close(found[1:], expected)


def test_grad_cam_rectifies_the_weighted_channels():
    activations = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    gradients = torch.tensor([[2.0, 0.0], [0.0, -4.0]])
    assert grad_cam(activations, gradients).tolist() == [0.0, 5.0]


@needs_transformers
@pytest.mark.parametrize("pooling", ["patches", "class"])
def test_maps_and_attention_agree_with_a_network_run_by_hand_in_float64(folder, pooling):
    network = ClipNetwork(folder)
    texts = network.texts([["a cat.", "a dog."], ["sky"], ["b"]])
    planes = network.planes(IMAGE[:32, :48])
    maps, attention = network.explain(planes, texts, 2, num_layers=2, pooling=pooling)
    assert maps.shape == (2, 24)
    assert attention.shape == (24, 24)
    for index in range(2):
        expected, attentions = explained_by_hand(network, planes, texts, index, pooling)
        found = maps[index].double()
        assert expected.max() > 0
        torch.testing.assert_close(
            found / found.max(), expected / expected.max(), rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(attention, attentions[-2:].mean(0), rtol=1e-4, atol=1e-6)
    assert bool((attention.sum(1) < 1).all())  # without the class token


@needs_transformers
def test_texts_are_means_of_unit_vectors(folder):
    import transformers

    network = ClipNetwork(folder)
    found = network.texts([["a cat.", "sky"], ["b"]])
    model = transformers.CLIPModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    units = []
    for text in ("a cat.", "sky", "b"):
        with torch.no_grad():
            pooled = model.text_model(**tokenizer(text, return_tensors="pt")).pooler_output
            units.append(normalize(model.text_projection(pooled)[0], dim=0))
    expected = torch.stack([normalize((units[0] + units[1]) / 2, dim=0), units[2]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_spreading_agrees_with_matrices_in_float64():
    rng = np.random.default_rng(1)
    attention = torch.from_numpy(rng.random((12, 12)))
    one = np.zeros((3, 4), np.float32)
    one[0, 1], one[1, 2], one[2, 0] = 1.0, 0.5, 0.3  # the box is rows 0 to 1, columns 1 to 2
    config = ClipEs(sinkhorn_iterations=3, num_steps=2, box_min_frac=0.4)
    w = attention.numpy()
    for _ in range(3):
        w = w / w.sum(0, keepdims=True)
        w = w / w.sum(1, keepdims=True)
    t = (w + w.T) / 2
    mask = np.zeros((3, 4))
    mask[:2, 1:3] = 1
    expected = ((t @ t) * mask.reshape(1, 12)) @ one.reshape(12).astype(np.float64)
    found = spread_by_attention(one[None], attention, config)
    np.testing.assert_allclose(found[0], expected.reshape(3, 4), rtol=1e-5)


@needs_transformers
def test_scores_are_on_the_grid_of_patches_for_the_tagged_classes(folder):
    scores = clip_es(IMAGE, WeakLabels(tags={2}), config=settings(folder), context=knowing())
    assert scores.class_ids.tolist() == [0, 2]
    assert scores.values.shape == (2, 5, 7)
    assert scores.size == (37, 50)
    assert not scores.values[0].any()
    assert scores.values[1].min() == 0
    assert scores.values[1].max() == pytest.approx(1)
    both = clip_es(IMAGE, WeakLabels(tags={1, 2}), config=settings(folder), context=knowing())
    assert both.class_ids.tolist() == [0, 1, 2]
    assert not np.allclose(both.values[1], both.values[2])


@needs_transformers
def test_no_steps_leave_the_stretched_grad_cam(folder):
    config = settings(folder, num_steps=0)
    scores = clip_es(IMAGE[:32, :48], WeakLabels(tags={1}), config=config, context=knowing())
    network = ClipNetwork(folder)
    texts = network.texts([["a dent."], ["a wall."], ["a sky."]])
    planes = network.planes(IMAGE[:32, :48])
    maps, _ = network.explain(planes, texts, 1, num_layers=8, pooling="patches")
    one = maps[0].numpy().reshape(4, 6)
    expected = (one - one.min()) / (one.max() - one.min())
    np.testing.assert_allclose(scores.values[1], expected, atol=1e-5)


@needs_transformers
def test_images_are_enlarged_to_patches_and_shrunk_to_the_longest_side(folder):
    tiny = clip_es(IMAGE[:3, :5], WeakLabels(tags={1}), config=settings(folder), context=knowing())
    assert tiny.values.shape == (2, 1, 1)
    wide = np.zeros((20, 200, 3), np.uint8)
    config = settings(folder, max_side_px=64)
    assert clip_es(wide, WeakLabels(tags={1}), config=config, context=knowing()).values.shape == (
        2, 1, 8,
    )  # fmt: skip


@needs_transformers
def test_the_network_is_loaded_once_and_never_for_images_without_classes(folder, monkeypatch):
    import transformers

    context = knowing()
    clip_es(IMAGE, WeakLabels(tags={1}), config=settings(folder), context=context)
    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", None)
    again = clip_es(IMAGE, WeakLabels(tags={1}), config=settings(folder), context=context)
    assert again.values[1].any()
    empty = clip_es(IMAGE, WeakLabels(tags=()), config=settings("nowhere"), context=knowing())
    assert empty.class_ids.tolist() == [0]
    assert (empty.values == 1).all()


def test_images_without_tags_and_tags_without_names_are_refused():
    with pytest.raises(DataError, match="needs the tags"):
        clip_es(IMAGE, WeakLabels(), context=knowing())
    with pytest.raises(DataError, match=r"Class 3 has no name.* there are 2 names"):
        clip_es(IMAGE, WeakLabels(tags={3}), context=knowing())


@needs_transformers
def test_the_stage_maps_tagged_images_and_background_rules_may_follow(
    make_dataset, tmp_path, folder
):
    dataset = make_dataset({"a": {"tags": {1}}, "ok": {"tags": set()}, "untagged": {"tags": None}})
    recipe = load_recipe(
        "clip_es",
        [f"localize.model={folder}", "localize.background=[wall, sky]",
         "localize.templates=['a {}.']", "segment=null"],
    )  # fmt: skip
    stages = plan(RunDir(tmp_path / "run"), dataset, recipe, use_masks=False)
    preflight(dataset, recipe, stages, STAGES, RunContext())
    stage = StageDir(tmp_path / "localize", "f")
    localize(dataset, recipe.localize, stage, RunContext())
    assert {sample.id for sample in stage.usable(dataset.samples)} == {"a", "ok"}
    assert load_scores(stage.file("scores", "a", ".npz")).class_ids.tolist() == [0, 1]


@needs_transformers
def test_what_is_wrong_is_found_before_the_run(make_dataset, tmp_path, folder):
    dataset = make_dataset({"a": {"tags": {1}}})

    def check(name=folder, **changes):
        settings(name, **changes).check(dataset, allow_masks=False)

    check()
    with pytest.raises(RecipeError, match=r'"dnet"\. Did you mean "dent"'):
        check(prompts={"dnet": ["x"]})
    with pytest.raises(RecipeError, match=r"has 102 tokens, but .* reads 48"):
        check(prompts={"dent": ["x" * 98]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match=r"no config\.json and no processor_config"):
        check(str(tmp_path / "empty"))
    with pytest.raises(MissingWeightsError, match="is no folder"):
        check(str(tmp_path / "nowhere"))
    with pytest.raises(MissingWeightsError, match=r"cannot be loaded .*localize\.model=FOLDER"):
        check("nobody/nothing")
    [weights] = (tmp_path / "clip").glob("*.safetensors")
    weights.write_bytes(b"torn")
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        check()
    with pytest.raises(DataError, match="works from tags"):
        settings(folder).check(make_dataset({"b": {"tags": None}}), allow_masks=False)


@needs_transformers
def test_a_network_for_something_else_is_refused(tmp_path, folder):
    import transformers

    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    config.save_pretrained(folder)
    with pytest.raises(RecipeError, match="bert network, not CLIP"):
        ClipNetwork(folder)


def test_backgrounds_that_name_a_class_are_left_out():
    config = ClipEs(
        templates=("a {}.", "the {}"), background=["sky", "Dent", "oil"], prompts={"stain": ["oil"]}
    )
    assert prompt_groups(config, NAMES) == [
        ["a dent.", "the dent"], ["a oil.", "the oil"], ["a sky.", "the sky"],
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"classes of the data set only \(dent\)"):
        prompt_groups(ClipEs(background=["dent"]), NAMES)
    assert prompt_groups(ClipEs(background=["x"]), ("sofa_bed",))[0] == [
        "a clean origami sofa bed."
    ]


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    really = builtins.__import__

    def without(name, *rest):
        if name == "transformers":
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "wsseg\[clip\]"'):
        ClipNetwork(str(tmp_path))


@pytest.mark.parametrize("text", ["photo", "{} and {}"])
def test_templates_need_one_place_for_the_word(text):
    with pytest.raises(ValidationError, match="write one, as in"):
        ClipEs(templates=(text,))


def test_the_defaults_are_those_of_the_paper():
    config = ClipEs()
    assert config.templates == ("a clean origami {}.",)
    assert (config.num_layers, config.sinkhorn_iterations, config.num_steps) == (8, 3, 2)
    assert config.box_min_frac == 0.4
    assert not config.writes_background
