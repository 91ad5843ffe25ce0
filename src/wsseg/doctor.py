"""What this machine has: versions, device, extras, cached weights."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsseg._version import __version__

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "accelerate",
    "numpy",
    "numba",
    "opencv-python-headless",
    "scikit-image",
)
_EXTRAS = {
    "sam": ("transformers",),
    "clip": ("transformers",),
    "saliency": ("transformers",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "test": ("pytest", "hypothesis"),
}


@dataclass(frozen=True)
class Facts:
    """What was found.

    Args:
        packages: ``{package: version or "missing"}``.
        machine: Python, system, processor, cores, device, precision.
        extras: ``{extra: missing packages}``.
        weights: Cached models with their sizes in megabytes.
        advice: What to do about what is missing.
    """

    packages: dict[str, str]
    machine: dict[str, str]
    extras: dict[str, list[str]]
    weights: dict[str, float]
    advice: tuple[str, ...]

    def text(self) -> str:
        """Say it for people."""
        lines = [f"wsseg {__version__}", ""]
        lines += [f"{name:<30} {value}" for name, value in (self.machine | self.packages).items()]
        lines.append("")
        for extra, missing in self.extras.items():
            state = f"missing {', '.join(missing)}" if missing else "installed"
            lines.append(f"{'extra ' + extra:<30} {state}")
        lines.append("")
        lines += [f"weights {name:<22} {size:.0f} MB" for name, size in self.weights.items()]
        if not self.weights:
            lines.append("weights                        none cached")
        lines += ["", *self.advice] if self.advice else []
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Say it for machines."""
        return {
            "wsseg": __version__,
            "packages": self.packages,
            "machine": self.machine,
            "extras": self.extras,
            "weights": self.weights,
            "advice": list(self.advice),
        }


def examine() -> Facts:
    """Look at versions, device, extras and the weight cache; nothing is downloaded.

    Returns:
        What was found.
    """
    packages = {name: _version(name) for name in _PACKAGES}
    extras = {
        extra: [name for name in names if importlib.util.find_spec(name) is None]
        for extra, names in _EXTRAS.items()
    }
    weights = _cached_weights()
    advice = [
        f'extra {extra}: pip install "wsseg[{extra}]"'
        for extra, missing in extras.items()
        if missing and extra != "test"
    ]
    if not weights:
        advice.append(
            "No pre-trained weights are cached: the first recipe with weights=imagenet needs the "
            "Hugging Face hub, or a local file given as localize.weights=PATH; weights=none "
            "trains from scratch."
        )
    return Facts(packages, _machine(), extras, weights, tuple(advice))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _machine() -> dict[str, str]:
    import torch

    from wsseg.device import best_device, processor_name
    from wsseg.training.precision import choose_precision

    device = best_device()
    precision, reason = choose_precision(torch.device(device))
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "device": device,
        "precision of training": f"{precision} ({reason})",
    }
    if device == "cuda":
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["device"] = f"cuda ({', '.join(names)})"
    return facts


def _cached_weights() -> dict[str, float]:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    found = {}
    for folder in sorted(hub.glob("models--*")) if hub.is_dir() else []:
        # Snapshots are links to the one copy of each file.
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        size = sum(file.stat().st_size for file in files)
        if size:
            name = folder.name.removeprefix("models--").replace("--", "/")
            found[name] = round(size / 1e6, 1)
    return found
