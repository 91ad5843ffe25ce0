"""wsseg: weakly supervised semantic segmentation, from cheap labels to pixel masks and a model.

The public names load what they need when they are first used; ``import wsseg`` imports neither
torch nor OpenCV.

Example:
    >>> import wsseg
    >>> recipe = wsseg.load_recipe("cam", ["segment.training.epochs=30"])
    >>> recipe.segment.training.epochs
    30
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsseg._version import __version__

if TYPE_CHECKING:
    from wsseg.data.check import check_dataset
    from wsseg.data.dataset import Dataset, Sample
    from wsseg.data.discover import open_dataset
    from wsseg.data.labels import ClassList, WeakLabels
    from wsseg.data.scores import Scores
    from wsseg.evaluate.folders import evaluate_folders
    from wsseg.pipeline import run
    from wsseg.recipe import Recipe, load_recipe
    from wsseg.segment.predict import Predictor

_PLACES = {
    "ClassList": "wsseg.data.labels",
    "Dataset": "wsseg.data.dataset",
    "Predictor": "wsseg.segment.predict",
    "Recipe": "wsseg.recipe",
    "Sample": "wsseg.data.dataset",
    "Scores": "wsseg.data.scores",
    "WeakLabels": "wsseg.data.labels",
    "check_dataset": "wsseg.data.check",
    "evaluate_folders": "wsseg.evaluate.folders",
    "load_recipe": "wsseg.recipe",
    "open_dataset": "wsseg.data.discover",
    "run": "wsseg.pipeline",
}

__all__ = [
    "ClassList",
    "Dataset",
    "Predictor",
    "Recipe",
    "Sample",
    "Scores",
    "WeakLabels",
    "__version__",
    "check_dataset",
    "evaluate_folders",
    "load_recipe",
    "open_dataset",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
