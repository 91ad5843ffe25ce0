"""The cue `model`, with tiny networks of random weights, saved and loaded with the hub off."""

from __future__ import annotations

import builtins
import importlib.util

import numpy as np
import pytest
import torch

from wsseg.cues.protocol import CueContext, CueInputs
from wsseg.cues.saliency_model import Model, model
from wsseg.cues.source import check_cue, open_cue
from wsseg.errors import MissingExtraError, MissingWeightsError, RecipeError

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _hub_off(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def save_segformer(folder, labels):
    import transformers

    torch.manual_seed(0)
    settings = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 1], mlp_ratios=[2, 2],
        decoder_hidden_size=8, num_labels=len(labels), id2label=dict(enumerate(labels)),
    )  # fmt: skip
    network = transformers.SegformerForSemanticSegmentation(settings).eval()
    network.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return network


def reference_logits(network, folder):
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return network(**processor(images=IMAGE, return_tensors="pt")).logits[0]


def enlarged(values):
    full = torch.nn.functional.interpolate(values[None, None], IMAGE.shape[:2], mode="bilinear")
    return full[0, 0].numpy()


@needs_transformers
def test_labels_named_as_foreground_add_up(tmp_path):
    network = save_segformer(tmp_path / "net", ["wall", "cat", "dog"])
    config = Model(model=str(tmp_path / "net"), foreground=("dog", "cat"))
    found = model(IMAGE, config=config)
    expected = enlarged(reference_logits(network, tmp_path / "net").softmax(0)[1:].sum(0))
    assert found.shape == (37, 50)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_transformers
@pytest.mark.parametrize(("labels", "row"), [(["salient"], None), (["ground", "thing"], 1)])
def test_one_or_two_outputs_need_no_names(tmp_path, labels, row):
    network = save_segformer(tmp_path / "net", labels)
    found = model(IMAGE, config=Model(model=str(tmp_path / "net")))
    logits = reference_logits(network, tmp_path / "net")
    probability = logits[0].sigmoid() if row is None else logits.softmax(0)[row]
    np.testing.assert_allclose(found, enlarged(probability), atol=1e-5)


@needs_transformers
def test_networks_that_classify_masks_are_taken(tmp_path):
    import transformers

    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    settings = transformers.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, num_labels=3, mask_feature_size=32,
        fpn_feature_size=32, id2label={0: "wall", 1: "cat", 2: "dog"},
    )  # fmt: skip
    network = transformers.MaskFormerForInstanceSegmentation(settings).eval()
    folder = tmp_path / "net"
    network.save_pretrained(folder)
    processor = transformers.MaskFormerImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    found = model(IMAGE, config=Model(model=str(folder), foreground=("cat",)))
    with torch.no_grad():
        outputs = network(**processor(images=IMAGE, return_tensors="pt"))
    weights = outputs.class_queries_logits[0].softmax(-1)[:, 1]
    masks = outputs.masks_queries_logits[0].sigmoid()
    expected = enlarged((weights[:, None, None] * masks).sum(0).clamp(max=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_transformers
def test_the_network_is_loaded_once_for_all_images(make_dataset, tmp_path, monkeypatch):
    import transformers

    save_segformer(tmp_path / "net", ["salient"])
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {1}}})
    source = open_cue(Model(model=str(tmp_path / "net")), CueInputs(dataset, tmp_path / "cues"))
    first = source.map(dataset.samples[0])
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", None)
    assert source.map(dataset.samples[1]).shape == first.shape == (8, 8)


@needs_transformers
def test_labels_that_are_unknown_or_not_named_are_told(tmp_path):
    save_segformer(tmp_path / "net", ["wall", "cat", "dog"])
    folder = str(tmp_path / "net")
    with pytest.raises(RecipeError, match=r'"cta"\. Did you mean "cat"'):
        model(IMAGE, config=Model(model=folder, foreground=("cta",)))
    with pytest.raises(RecipeError, match=r"3 labels; name those .* wall, cat, dog"):
        model(IMAGE, config=Model(model=folder))


@needs_transformers
def test_a_folder_that_is_no_network_says_what_is_missing(make_dataset, tmp_path):
    dataset = make_dataset({"a": {"tags": {1}}})
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match=r"no config\.json and no preprocessor_config"):
        check_cue(Model(model=str(tmp_path / "empty")), dataset)
    with pytest.raises(MissingWeightsError, match="is no folder"):
        check_cue(Model(model=str(tmp_path / "nowhere")), dataset)
    with pytest.raises(MissingWeightsError, match=r"cannot be loaded .*copy its folder"):
        check_cue(Model(model="nobody/nothing"), dataset)
    save_segformer(tmp_path / "net", ["salient"])
    [weights] = (tmp_path / "net").glob("*.safetensors")
    weights.write_bytes(b"torn")
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        check_cue(Model(model=str(tmp_path / "net")), dataset)


@needs_transformers
def test_a_network_for_something_else_is_refused(tmp_path):
    import transformers

    settings = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    transformers.BertModel(settings).save_pretrained(tmp_path / "net")
    transformers.SegformerImageProcessor().save_pretrained(tmp_path / "net")
    with pytest.raises(RecipeError, match="bert network, which is no segmentation network"):
        model(IMAGE, config=Model(model=str(tmp_path / "net")), context=CueContext())


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    really = builtins.__import__

    def without(name, *rest):
        if name == "transformers":
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "wsseg\[saliency\]"'):
        model(IMAGE, config=Model(model=str(tmp_path)))
