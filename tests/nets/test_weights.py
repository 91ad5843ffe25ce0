from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsseg.errors import MissingWeightsError, RecipeError
from wsseg.nets.build import build_backbone
from wsseg.nets.trunks import create_trunk
from wsseg.nets.weights import guess_architecture, load_backbone_state, read_state_dict

STATE = {"conv.weight": torch.arange(4.0), "conv.bias": torch.ones(1)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(STATE) and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: OrderedDict(state),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "ordered", "state_dict", "nested", "module"],
)
def test_torch_checkpoints_are_unwrapped(tmp_path: Path, suffix: str, wrap: object) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save(wrap(STATE), path)  # type: ignore[operator]
    assert same(read_state_dict(path))


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(STATE, path)
    assert same(read_state_dict(path))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def test_a_pickled_object_is_refused_and_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"state_dict": STATE, "extra": Payload()}, path)
    with pytest.raises(MissingWeightsError, match="never executed"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".params"])
def test_a_damaged_file_names_itself(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"not weights at all")
    with pytest.raises(MissingWeightsError, match=f"net{suffix}"):
        read_state_dict(path)


def test_a_missing_file_says_how_to_train_from_scratch(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"does not exist.*localize\.weights=none"):
        read_state_dict(tmp_path / "net.pth")


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    path.write_bytes(b"")
    with pytest.raises(MissingWeightsError, match=r'"\.h5".*\.safetensors'):
        read_state_dict(path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(MissingWeightsError, match="no tensors, only epoch"):
        read_state_dict(path)


def random_state(name: str, **options: object) -> dict[str, torch.Tensor]:
    state = create_trunk(name, **options).state_dict()  # type: ignore[arg-type]
    return {
        key: torch.rand_like(value) if value.is_floating_point() else value
        for key, value in state.items()
    }


@pytest.mark.parametrize("prefix", ["", "backbone.trunk.", "encoder."])
def test_weights_are_loaded_under_any_common_prefix(tmp_path: Path, prefix: str) -> None:
    given = random_state("test_resnet")
    stored = {prefix + key: value for key, value in given.items()}
    stored["head.weight" if prefix else "fc.weight"] = torch.zeros(3, 96)
    path = tmp_path / "net.safetensors"
    save_file(stored, path)
    loaded = create_trunk("test_resnet", weights=str(path)).state_dict()
    assert all(torch.equal(loaded[key], given[key]) for key in given)


def test_a_colour_convolution_is_summed_for_grey_images(tmp_path: Path) -> None:
    given = random_state("test_resnet")
    path = tmp_path / "net.safetensors"
    save_file(given, path)
    loaded = create_trunk("test_resnet", weights=str(path), in_channels=1).state_dict()
    expected = given["conv1.0.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(loaded["conv1.0.weight"], expected)


def test_weights_of_another_network_are_refused_and_recognised(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(random_state("test_vit"), path)
    with pytest.raises(MissingWeightsError) as caught:
        create_trunk("test_resnet", weights=str(path))
    message = str(caught.value)
    assert "missing: conv1.0.weight" in message
    assert "left over: " in message
    assert "a vision transformer with 6 blocks" in message
    assert "localize.backbone" in message


def test_one_missing_weight_is_enough_to_refuse() -> None:
    trunk = create_trunk("test_resnet")
    state = dict(trunk.state_dict())
    del state["layer4.0.conv1.weight"]
    with pytest.raises(MissingWeightsError, match=r"1 missing: layer4\.0\.conv1\.weight"):
        load_backbone_state(trunk, state, source="memory", name="test_resnet")


def test_a_weight_of_another_shape_is_named_with_both_shapes() -> None:
    trunk = create_trunk("test_resnet")
    state = dict(trunk.state_dict())
    state["bn1.weight"] = torch.ones(5)
    with pytest.raises(MissingWeightsError, match=r"bn1\.weight \(5,\) instead of \(\d+,\)"):
        load_backbone_state(trunk, state, source="memory", name="test_resnet")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "ResNet-18"),
        ("resnet50", "ResNet-50"),
        ("convnext_atto", "ConvNeXt"),
        ("efficientnet_b0", "EfficientNet"),
        ("vgg11", "torchvision VGG"),
        ("swin_tiny_patch4_window7_224", "Swin"),
    ],
)
def test_architectures_are_recognised_by_their_keys(name: str, expected: str) -> None:
    import timm

    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert expected in guess_architecture(state)


def test_an_unknown_architecture_shows_its_first_keys() -> None:
    assert "first keys: a.b, c.d" in guess_architecture({"a.b": 0, "c.d": 0})


def test_imagenet_weights_offline_name_the_file_the_folder_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError) as caught:
        build_backbone("test_resnet.r160_in1k", weights="imagenet")
    message = str(caught.value)
    assert "model.safetensors of timm/test_resnet.r160_in1k" in message
    assert str(tmp_path / "models--timm--test_resnet.r160_in1k") in message
    assert "localize.weights=none" in message
    assert "localize.weights=PATH" in message


def test_a_network_without_published_weights_says_so() -> None:
    with pytest.raises(MissingWeightsError, match="no ImageNet weights"):
        create_trunk("test_mambaout", weights="imagenet")


@pytest.mark.parametrize("name", ["resnet38d", "vgg16_largefov"])
def test_our_own_networks_name_their_published_file(name: str) -> None:
    with pytest.raises(MissingWeightsError, match=r"(rna-a1|vgg16_20M).*localize\.weights=PATH"):
        create_trunk(name, weights="imagenet")


def test_a_mistyped_backbone_is_corrected() -> None:
    with pytest.raises(RecipeError, match='Did you mean "resnet50"'):
        create_trunk("resnet_50")
