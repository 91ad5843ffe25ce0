"""Tests of wsseg.export.onnx: files are run by onnxruntime at other sizes than the traced one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg.errors import MissingExtraError, MissingWeightsError, OutputError
from wsseg.export import onnx as onnx_module
from wsseg.export.onnx import OnnxMetadata, export_onnx
from wsseg.nets.segmentation import SegmentationNet
from wsseg.segment.config import PredictConfig
from wsseg.segment.forward import OnnxForward, TorchForward
from wsseg.segment.predict import Predictor

pytest.importorskip("onnx", reason="the extra onnx is not installed")

METADATA = OnnxMetadata(
    classes=("scratch", "dent"), inference=PredictConfig(flip=False, tile_px=None, overlap_px=0)
)
SIZE = (40, 56)


class TinyNet(nn.Module):
    """Two convolutions with a stride and bilinear upsampling to the size of the input."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.head(self.down(images).relu())
        return nn.functional.interpolate(maps, size=images.shape[-2:], mode="bilinear")


def _images(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    report = export_onnx(TinyNet(), path, METADATA, size_px=SIZE)
    assert report.is_dynamic
    assert report.checked_shape[0] != 2
    assert report.checked_shape[1:] != SIZE
    assert report.max_difference < 1e-5
    return path


@pytest.mark.parametrize("shape", [(1, 33, 71), (3, 64, 20), (1, 1, 1)])
def test_file_computes_the_same_at_any_batch_and_size(exported: Path, shape: tuple[int, int, int]):
    images = _images(*shape)
    forward = OnnxForward(exported)
    assert forward.fixed_size is None
    np.testing.assert_allclose(forward(images), TorchForward(TinyNet())(images), atol=1e-5)


def test_normalisation_and_softmax_are_in_the_graph(exported: Path):
    from wsseg.data.colour import normalise

    image = _images(1, 24, 30)
    with torch.no_grad():
        logits = TinyNet()(torch.from_numpy(normalise(image[0]))[None])
    expected = logits.double().softmax(dim=1).numpy()
    found = OnnxForward(exported)(image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_predictor_reads_classes_and_settings_from_the_file(exported: Path):
    predictor = Predictor.load(exported)
    assert predictor.classes.names == ("scratch", "dent")
    assert predictor.config == METADATA.inference
    image = _images(1, 31, 45)[0]
    expected = TorchForward(TinyNet())(image[None])[0]
    np.testing.assert_allclose(predictor.predict(image).probabilities, expected, atol=1e-5)


def test_open_axes_have_names(exported: Path):
    import onnx

    dims = onnx.load(str(exported)).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]


def test_grey_network_takes_rgb_bytes_too(tmp_path: Path):
    net = TinyNet(in_channels=1)
    export_onnx(net, tmp_path / "grey.onnx", METADATA, in_channels=1, size_px=SIZE)
    images = _images(2, 21, 30)
    np.testing.assert_allclose(
        OnnxForward(tmp_path / "grey.onnx")(images),
        TorchForward(net, in_channels=1)(images),
        atol=1e-5,
    )


def test_network_that_pools_to_a_grid_is_exported_for_one_size(tmp_path: Path):
    class Pooling(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d((2, 2))

        def forward(self, images: Tensor) -> Tensor:
            maps = self.head(self.down(images).relu())
            pooled = nn.functional.interpolate(self.pool(maps), size=images.shape[-2:])
            return pooled + nn.functional.interpolate(maps, size=images.shape[-2:])

    net = Pooling()
    report = export_onnx(net, tmp_path / "static.onnx", METADATA, size_px=(48, 48))
    assert not report.is_dynamic
    assert report.checked_shape == (2, 48, 48)
    forward = OnnxForward(tmp_path / "static.onnx")
    assert forward.fixed_size == (48, 48)
    for count in (1, 2, 5):
        images = _images(count, 48, 48)
        np.testing.assert_allclose(forward(images), TorchForward(net)(images), atol=1e-5)
    prediction = Predictor.load(tmp_path / "static.onnx").predict(_images(1, 70, 31)[0])
    assert prediction.mask.shape == (70, 31)


def test_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(onnx_module, "compare_onnx", lambda *args: 0.25)
    with pytest.raises(OutputError, match=r"differ by up to 0\.25"):
        export_onnx(TinyNet(), tmp_path / "bad.onnx", METADATA, size_px=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_comparison_sees_other_weights(exported: Path):
    from wsseg.nets.deployed import DeployedNet

    other = TinyNet()
    nn.init.constant_(other.head.bias, 2.0)
    nn.init.constant_(other.head.weight, 0.5)
    assert onnx_module.compare_onnx(DeployedNet(other).eval(), exported, (1, 20, 20)) > 0.01


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    with pytest.raises(MissingExtraError, match=r'pip install "wsseg\[onnx\]"'):
        export_onnx(TinyNet(), tmp_path / "a.onnx", METADATA)


def test_file_of_another_program_is_refused(tmp_path: Path, exported: Path):
    import onnx

    model = onnx.load(str(exported))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(MissingWeightsError, match="carries no description"):
        Predictor.load(tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(MissingWeightsError, match="cannot be loaded by onnxruntime"):
        Predictor.load(tmp_path / "broken.onnx")
    with pytest.raises(MissingWeightsError, match="does not exist"):
        Predictor.load(tmp_path / "missing.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "is_dynamic"),
    [("unet", True), ("deeplabv3plus", True), ("pan", True), ("pspnet", False), ("upernet", False)],
)
def test_architectures_export_and_agree(tmp_path: Path, architecture: str, is_dynamic: bool):
    torch.manual_seed(0)
    net = SegmentationNet(architecture, "tu-test_resnet", 3, weights="none").eval()
    report = export_onnx(net, tmp_path / "net.onnx", METADATA, size_px=(97, 131))
    assert report.is_dynamic is is_dynamic
    forward = OnnxForward(tmp_path / "net.onnx")
    images = _images(3, 150, 70) if is_dynamic else _images(3, 97, 131)
    np.testing.assert_allclose(forward(images), TorchForward(net)(images), atol=1e-4)


def test_local_contrast_is_part_of_the_file(tmp_path: Path):
    net = SegmentationNet("unet", "resnet18", 3, weights="none", local_contrast_px=33)
    report = export_onnx(net.eval(), tmp_path / "net.onnx", METADATA, size_px=(64, 64))
    assert report.is_dynamic
    assert report.max_difference < 1e-4
