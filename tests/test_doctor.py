from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from wsseg import __version__
from wsseg.doctor import examine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


def test_versions_and_device_are_told() -> None:
    facts = examine()
    assert facts.packages["torch"] == version("torch")
    assert facts.machine["device"].split()[0] in ("cpu", "cuda", "mps")
    assert facts.machine["precision of training"].split()[0] in (
        "float32",
        "bfloat16",
        "float16",
    )
    assert int(facts.machine["cores"]) >= 1
    lines = facts.text().splitlines()
    assert lines[0] == f"wsseg {__version__}"
    assert any(line.split() == ["torch", facts.packages["torch"]] for line in lines)
    assert facts.as_dict()["wsseg"] == __version__


def test_a_missing_package_is_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsseg.doctor._PACKAGES", ("no-such-package-here",))
    assert examine().packages == {"no-such-package-here": "missing"}


def test_a_missing_extra_comes_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec
    hidden = ("onnxruntime", "hypothesis")

    def find(name: str) -> Any:
        return None if name in hidden else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    facts = examine()
    assert facts.extras["onnx"] == ["onnxruntime"]
    assert 'extra onnx: pip install "wsseg[onnx]"' in facts.advice
    assert not any("wsseg[test]" in line for line in facts.advice)
    assert "missing onnxruntime" in facts.text()


def test_without_cached_weights_it_says_where_they_come_from() -> None:
    facts = examine()
    assert facts.weights == {}
    assert any("weights=none" in line for line in facts.advice)
    assert "none cached" in facts.text()


def test_cached_weights_are_listed_with_their_size_counted_once(cache: Path) -> None:
    model = cache / "models--timm--resnet50.a1_in1k"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs" / "abc").write_bytes(b"0" * 2_000_000)
    snapshot = model / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(model / "blobs" / "abc")
    (cache / "models--only--asked-for" / "refs").mkdir(parents=True)
    (cache / "datasets--some--thing").mkdir()
    facts = examine()
    assert facts.weights == {"timm/resnet50.a1_in1k": 2.0}
    assert "weights timm/resnet50.a1_in1k  2 MB" in facts.text()
    assert not any("No pre-trained weights" in line for line in facts.advice)


def test_the_cache_is_found_where_the_home_of_the_hub_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    blob = tmp_path / "home" / "hub" / "models--a--b" / "blobs" / "x"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"0" * 100_000)
    assert examine().weights == {"a/b": 0.1}
