"""The backend `sam`, with tiny networks of random weights, saved and loaded with the hub off."""

from __future__ import annotations

import builtins
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsseg import registry
from wsseg.cues.segments import Prompt, SegmentsContext
from wsseg.cues.segments_sam import Sam, sam
from wsseg.errors import DataError, MissingExtraError, MissingWeightsError, RecipeError

sys.path.insert(0, str(Path(__file__).parent))
from tiny_sam import FAMILIES, save_tiny_sam

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype(np.uint8)
LOOSE = {"min_iou": 0.0, "min_stability": 0.0, "points_per_side": 3}


@pytest.fixture(autouse=True)
def _hub_off(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def asked_directly(network, processor, *, multimask=True, **prompts):
    """Ask the network through its own processor: (objects, masks, H, W) logits, and scores."""
    inputs = processor(images=IMAGE, return_tensors="pt", **prompts)
    sizes = {"original_sizes": inputs.pop("original_sizes")}
    if "reshaped_input_sizes" in inputs:
        sizes["reshaped_input_sizes"] = inputs.pop("reshaped_input_sizes")
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        outputs = network(**inputs, multimask_output=multimask)
    process = getattr(processor, "post_process_masks", processor.image_processor.post_process_masks)
    [logits] = process(outputs.pred_masks, **sizes, binarize=False)
    return logits.numpy(), outputs.iou_scores[0].numpy()


def agree(segments, logits, scores):
    """Compare, where the logit is not so small that 16 bits of the embedding decide its sign."""
    assert len(segments) == len(logits)
    clear = np.abs(logits) > 0.02 * np.abs(logits).max()
    np.testing.assert_array_equal(segments.masks[clear], (logits > 0)[clear])
    assert clear.mean() > 0.5
    np.testing.assert_allclose(segments.scores, scores.clip(0, 1), atol=5e-3)


@needs_transformers
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_get_the_masks_that_the_network_gives_to_its_own_processor(tmp_path, family):
    network, processor = save_tiny_sam(tmp_path / "net", family)
    opened = sam(IMAGE, config=Sam(model=str(tmp_path / "net")))
    point, pair, box, both = opened.at(
        [
            Prompt([(12, 30)]),
            Prompt([(3, 4), (40, 20)], [True, False]),
            Prompt(box=(5, 6, 33, 30)),
            Prompt([(12, 20)], box=(5, 6, 33, 30)),
        ]
    )
    logits, scores = asked_directly(
        network, processor, input_points=[[[[12, 30]]]], input_labels=[[[1]]]
    )
    agree(point, logits[0], scores[0])
    logits, scores = asked_directly(
        network, processor, input_points=[[[[3, 4], [40, 20]]]], input_labels=[[[1, 0]]]
    )
    agree(pair, logits[0], scores[0])
    boxed = {"input_boxes": [[[5, 6, 33, 30]]], "multimask": False}
    agree(box, *(part[0] for part in asked_directly(network, processor, **boxed)))
    boxed |= {"input_points": [[[[12, 20]]]], "input_labels": [[[1]]]}
    agree(both, *(part[0] for part in asked_directly(network, processor, **boxed)))
    assert point.size == (37, 50)
    assert point.logits is not None
    height, width = point.logits.shape[1:]
    assert height / width == pytest.approx(37 / 50, abs=0.05)


@needs_transformers
def test_prompts_of_several_points_can_be_asked_together(tmp_path):
    save_tiny_sam(tmp_path / "net")
    asked = [Prompt([(3, 4)]), Prompt([(9, 9), (40, 20), (1, 1)]), Prompt([(20, 30)])]
    for batch in (2, 64):
        config = Sam(model=str(tmp_path / "net"), points_per_batch=batch)
        together = sam(IMAGE, config=config).at(asked)
        for prompt, answer in zip(asked, together, strict=True):
            [alone] = sam(IMAGE, config=config).at([prompt])
            # The order of additions differs, which may turn pixels whose logit is about zero.
            assert (alone.masks == answer.masks).mean() > 0.99
            np.testing.assert_allclose(alone.logits, answer.logits, atol=1e-4)
            np.testing.assert_allclose(alone.scores, answer.scores, atol=1e-5)


@needs_transformers
def test_boxes_get_three_masks_where_asked_and_none_outside_of_the_image(tmp_path):
    save_tiny_sam(tmp_path / "net")
    config = Sam(model=str(tmp_path / "net"), multimask_boxes=True)
    inside, beyond, cut, outside = sam(IMAGE, config=config).at(
        [
            Prompt(box=(5, 6, 50, 37)),
            Prompt(box=(5, 6, 90, 80)),
            Prompt(box=(-4, 6, 20, 20)),
            Prompt(box=(60, 6, 90, 80)),
        ]
    )
    assert len(inside) == len(cut) == 3
    np.testing.assert_array_equal(inside.masks, beyond.masks)
    assert len(outside) == 0
    assert outside.size == (37, 50)
    with pytest.raises(DataError, match=r"\(50, 3\) lies outside"):
        sam(IMAGE, config=config).at([Prompt([(50, 3)])])


def reference_everything(network, processor, config):
    """Generate masks point by point in float64, and thin them out one by one."""
    found = []
    side = config.points_per_side
    for row in range(side):
        for column in range(side):
            x, y = (column + 0.5) / side * 50, (row + 0.5) / side * 37
            logits, scores = asked_directly(
                network, processor, input_points=[[[[x, y]]]], input_labels=[[[1]]]
            )
            for mask, score in zip(logits[0].astype(np.float64), scores[0], strict=True):
                inner = (mask > config.stability_offset).sum()
                outer = (mask > -config.stability_offset).sum()
                if score > config.min_iou and outer and inner / outer >= config.min_stability:
                    ys, xs = np.nonzero(mask > 0)
                    found.append((score, mask, (xs.min(), ys.min(), xs.max(), ys.max())))
    found.sort(key=lambda entry: -entry[0])
    kept = []
    for entry in found:
        if all(box_iou(entry[2], other[2]) <= config.max_box_iou for other in kept):
            kept.append(entry)
    return kept


def box_iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return common / (sum(areas) - common)


@needs_transformers
@pytest.mark.parametrize(
    ("family", "min_stability", "max_box_iou"),
    [("sam", 0.0, 1.0), ("sam", 0.5, 0.9), ("sam2", 0.0, 0.95)],
)
def test_everything_is_the_grid_of_points_without_weak_and_doubled_masks(
    tmp_path, monkeypatch, family, min_stability, max_box_iou
):
    network, processor = save_tiny_sam(tmp_path / "net", family)
    # Embeddings in 32 bits, so that thresholds decide as in the reference.
    monkeypatch.setattr("wsseg.cues.sam_network._halved", lambda values: values)
    config = Sam(
        model=str(tmp_path / "net"), points_per_side=3, points_per_batch=4,
        min_iou=0.3, min_stability=min_stability,
        stability_offset=0.001, max_box_iou=max_box_iou,
    )  # fmt: skip
    expected = reference_everything(network, processor, config)
    found = sam(IMAGE, config=config).everything()
    assert 0 < len(found) == len(expected)
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, [entry[0] for entry in expected], atol=1e-5)
    for mask, (_, logits, _) in zip(found.masks, expected, strict=True):
        clear = np.abs(logits) > 1e-4 * np.abs(logits).max()
        np.testing.assert_array_equal(mask[clear], (logits > 0)[clear])


@needs_transformers
def test_an_image_may_have_no_segment_at_all(tmp_path):
    save_tiny_sam(tmp_path / "net")
    found = sam(IMAGE, config=Sam(model=str(tmp_path / "net"), min_iou=1.0)).everything()
    assert len(found) == 0
    assert not found.label_map().any()
    assert found.size == (37, 50)


@needs_transformers
@pytest.mark.parametrize("size", [(1, 1), (3, 90), (200, 130)])
def test_images_of_any_size_are_opened(tmp_path, size):
    save_tiny_sam(tmp_path / "net")
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    opened = sam(image, config=Sam(model=str(tmp_path / "net"), **LOOSE))
    [answer] = opened.at([Prompt([(0, 0)])])
    assert answer.size == opened.size == opened.everything().size == size


@needs_transformers
@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_runs_once_per_image_and_never_again_for_kept_embeddings(
    tmp_path, monkeypatch, family
):
    save_tiny_sam(tmp_path / "net", family)
    config = Sam(model=str(tmp_path / "net"), **LOOSE)
    context = SegmentsContext(folder=tmp_path / "kept")
    opened = sam(IMAGE, config=config, context=context)
    [first] = opened.at([Prompt([(12, 30)])])
    [network] = context.shared.values()
    monkeypatch.setattr(network.network, "get_image_embeddings", None)
    opened.everything()
    again = SegmentsContext(folder=tmp_path / "kept", shared=context.shared)
    [read] = sam(IMAGE.copy(), config=config, context=again).at([Prompt([(12, 30)])])
    np.testing.assert_array_equal(first.masks, read.masks)
    np.testing.assert_array_equal(first.scores, read.scores)
    with pytest.raises(TypeError):
        sam(255 - IMAGE, config=config, context=again).at([Prompt([(12, 30)])])


@needs_transformers
def test_embeddings_of_other_weights_and_damaged_ones_are_not_taken(tmp_path):
    network, _ = save_tiny_sam(tmp_path / "net")
    config = Sam(model=str(tmp_path / "net"))
    context = SegmentsContext(folder=tmp_path / "kept")
    [first] = sam(IMAGE, config=config, context=context).at([Prompt([(12, 30)])])
    [path] = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    [again] = sam(IMAGE, config=config, context=context).at([Prompt([(12, 30)])])
    np.testing.assert_array_equal(first.masks, again.masks)
    network.vision_encoder.neck.conv1.weight.data.mul_(2)
    network.save_pretrained(tmp_path / "net")
    other = SegmentsContext(folder=tmp_path / "kept")
    sam(IMAGE, config=config, context=other).at([Prompt([(12, 30)])])
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert sam.identity(config=config, context=other) != sam.identity(
        config=config, context=context
    )


@needs_transformers
def test_embeddings_of_another_preparation_of_images_are_not_taken(tmp_path):
    save_tiny_sam(tmp_path / "net")
    config = Sam(model=str(tmp_path / "net"))
    found = []
    for mean in (None, 0.1):
        if mean is not None:
            [path] = tmp_path.joinpath("net").glob("*processor_config.json")
            content = json.loads(path.read_text())
            content.get("image_processor", content)["image_mean"] = [mean] * 3
            path.write_text(json.dumps(content))
        context = SegmentsContext(folder=tmp_path / "kept")
        sam(IMAGE, config=config, context=context).at([Prompt([(12, 30)])])
        found.append(sam.identity(config=config, context=context))
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert found[0] != found[1]
    again = sam.identity(config=config, context=SegmentsContext())
    assert again == found[1]


@needs_transformers
def test_a_folder_that_is_no_network_says_what_is_missing(make_dataset, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}}})
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match=r"no config\.json and no processor_config"):
        sam.check(dataset, config=Sam(model=str(tmp_path / "empty")))
    with pytest.raises(MissingWeightsError, match="is no folder"):
        sam.check(dataset, config=Sam(model=str(tmp_path / "nowhere")))
    with pytest.raises(MissingWeightsError, match=r"cannot be loaded .*copy its folder"):
        sam.check(dataset, config=Sam(model="nobody/nothing"))
    save_tiny_sam(tmp_path / "net")
    sam.check(dataset, config=Sam(model=str(tmp_path / "net")))
    (tmp_path / "net" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        sam.check(dataset, config=Sam(model=str(tmp_path / "net")))


@needs_transformers
def test_a_network_that_takes_no_points_is_refused(tmp_path):
    import transformers

    settings = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    transformers.BertModel(settings).save_pretrained(tmp_path / "net")
    transformers.SegformerImageProcessor().save_pretrained(tmp_path / "net")
    with pytest.raises(RecipeError, match="bert network, which takes no points and boxes"):
        sam(IMAGE, config=Sam(model=str(tmp_path / "net")))


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    really = builtins.__import__

    def without(name, *rest):
        if name == "transformers":
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "wsseg\[sam\]"'):
        sam(IMAGE, config=Sam(model=str(tmp_path)))


def test_the_backend_is_registered_with_its_settings():
    assert registry.config_class("segments", "sam") is Sam
    assert registry.settings("segments", {"name": "sam", "model": "x"}) == Sam(model="x")


@needs_transformers
def test_soft_masks_are_the_masks_at_the_size_of_the_network(tmp_path):
    network, processor = save_tiny_sam(tmp_path / "net")
    [answer] = sam(IMAGE, config=Sam(model=str(tmp_path / "net"))).at([Prompt([(12, 30)])])
    logits, _ = asked_directly(
        network, processor, input_points=[[[[12, 30]]]], input_labels=[[[1]]]
    )
    full = F.interpolate(torch.from_numpy(answer.logits)[None], (37, 50), mode="bilinear")[0]
    error = np.abs(full.numpy() - logits[0]).mean()
    assert error < 0.1 * np.abs(logits[0]).std() + 0.02
