"""Model bundles: one folder with weights, settings and a card, loaded without running any code.

``model.safetensors`` holds the weights, ``model.json`` everything needed to build the network and
to use it, ``README.md`` the model card for people (Mitchell et al., "Model Cards for Model
Reporting", FAT* 2019).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from wsseg import registry
from wsseg._version import __version__
from wsseg.atomic import write_json, write_text
from wsseg.config import Config
from wsseg.errors import MissingWeightsError, RecipeError
from wsseg.segment.config import PredictConfig, SegmenterConfig

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "model.safetensors"
INFO_FILE = "model.json"
CARD_FILE = "README.md"

_SUPERVISION = {
    "I": "image tags only",
    "I+S": "image tags and saliency maps",
    "I+SAM": "image tags and the Segment Anything model (trained on masks)",
    "I+CLIP": "image tags and the CLIP model (trained on image-text pairs)",
    "boxes": "bounding boxes",
    "points": "points",
    "scribbles": "scribbles",
    "mixed": "tags, boxes, points, scribbles and masks, as each image has them",
    "masks": "pixel masks painted by people",
}


class ModelInfo(Config):
    """Everything about a trained model besides its weights."""

    format_version: Literal[1] = Field(1, description="Version of this file's layout.")
    wsseg_version: str = Field(__version__, description="Version that wrote the bundle.")
    segmenter: dict[str, Any] = Field(description="Settings of the segmenter, with its `name`.")
    classes: tuple[str, ...] = Field(description="Foreground classes; id 0 is background.")
    max_side_px: int | None = Field(
        None, description="Longest side, pixels, that images are shrunk to; none: as they are."
    )
    recipe: str = Field("", description="Name of the recipe, usually that of a paper.")
    supervision: str = Field("I", description="Which labels and outside knowledge were used.")
    cues: tuple[str, ...] = Field(
        (), description="Which methods learned from a cue, and where its maps come from."
    )
    data: dict[str, str | int | float] = Field(
        default={}, description="What it was trained on: source, number of images, fingerprint."
    )
    metrics: dict[str, float | None] = Field(
        default={}, description="Measured numbers by name, fractions in [0, 1]."
    )
    intended_use: str = Field(
        "Segmenting images that look like the training images: same camera, lighting and classes.",
        description="What the model is for.",
    )
    limits: tuple[str, ...] = Field((), description="What is known not to work.")

    @property
    def in_channels(self) -> int:
        """Channels of the network's input: 3 colour, 1 grey."""
        return int(self.segmenter.get("in_channels", 3))

    @property
    def inference(self) -> PredictConfig:
        """How masks are predicted with this model."""
        return PredictConfig.model_validate(self.segmenter.get("inference", {}))


def save_bundle(folder: Path, net: nn.Module, info: ModelInfo) -> None:
    """Write a model bundle.

    Args:
        folder: Made where it is missing; files of the bundle are replaced.
        net: The network as its segmenter built it.
        info: What goes beside the weights.

    Raises:
        OutputError: When a file cannot be written.
    """
    from wsseg.training.checkpoint import save_weights

    save_weights(folder / WEIGHTS_FILE, net, {"format": "wsseg model bundle"})
    write_text(folder / CARD_FILE, model_card(info))
    # Last, because its presence says that the bundle is complete.
    write_json(folder / INFO_FILE, info.model_dump(mode="json"))


def find_bundle(path: Path) -> Path:
    """Find the bundle in what a user names as a model.

    Args:
        path: A bundle's folder, one of its files, or the folder of a run.

    Returns:
        The bundle's folder.

    Raises:
        MissingWeightsError: When there is none.
    """
    folder = path.parent if path.is_file() else path
    places = [folder, folder / "segment", folder / "segment" / "model", folder / "model"]
    for place in places:
        if (place / INFO_FILE).is_file():
            return place
    raise MissingWeightsError(
        f"There is no model in {path}: expected {INFO_FILE} and {WEIGHTS_FILE} there or in its "
        "folder segment. Give the folder of a run whose segmenter is trained, a model bundle, or "
        "an .onnx file."
    )


def load_bundle(folder: Path) -> tuple[nn.Module, ModelInfo]:
    """Load a model bundle; nothing in it is executed.

    Args:
        folder: The bundle's folder.

    Returns:
        The network with its weights, in evaluation mode on the CPU, and its description.

    Raises:
        MissingWeightsError: When a file is missing or damaged, or the weights do not fit.
    """
    from wsseg.training.checkpoint import load_weights

    info = read_info(folder / INFO_FILE)
    net = build_segmenter(info)
    load_weights(folder / WEIGHTS_FILE, net)
    return net.eval(), info


def read_info(path: Path) -> ModelInfo:
    """Read ``model.json``.

    Raises:
        MissingWeightsError: When it is missing, damaged, or of a newer version.
    """
    try:
        return ModelInfo.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise MissingWeightsError(
            f"{path} is not the description of a model that wsseg {__version__} knows: {error}"
        ) from error


def build_segmenter(info: ModelInfo) -> nn.Module:
    """Build the network of a bundle with random weights.

    Raises:
        MissingWeightsError: When its segmenter or its settings are unknown here.
    """
    # The bundle brings all weights: nothing is fetched.
    settings = info.segmenter | ({"weights": "none"} if "weights" in info.segmenter else {})
    try:
        name = str(settings["name"])
        config = registry.config_class("segmenters", name).model_validate(settings)
        method = registry.load("segmenters", name)
        net: nn.Module = method(config=config, num_classes=len(info.classes))
    except (KeyError, RecipeError, ValidationError) as error:
        raise MissingWeightsError(
            f"The model's segmenter cannot be built: {error}. It was written by wsseg "
            f"{info.wsseg_version}; this is {__version__}."
        ) from error
    return net


def describe(config: SegmenterConfig) -> dict[str, Any]:
    """Return a segmenter's settings as they go into ``ModelInfo.segmenter``."""
    return config.model_dump(mode="json")


def model_card(info: ModelInfo) -> str:
    """Write the model card.

    Args:
        info: The model's description.

    Returns:
        Markdown.
    """
    supervision = _SUPERVISION.get(info.supervision, info.supervision)
    settings = info.segmenter
    lines = [
        f"# Segmentation model: {', '.join(info.classes)}",
        "",
        f"Written by wsseg {info.wsseg_version}"
        + (f", recipe `{info.recipe}`." if info.recipe else "."),
        "",
        "## Intended use",
        "",
        info.intended_use,
        "",
        "## Supervision",
        "",
        f"Labels and outside knowledge ({info.supervision}): {supervision}. First weights of the "
        f"encoder: {settings.get('weights', 'unknown')}.",
        "",
        *(f"- Cue of {line}" for line in info.cues),
        *([""] if info.cues else []),
        "## Network",
        "",
        *_table({key: settings.get(key, "-") for key in ("name", "architecture", "encoder")}),
        "",
        f"Input: RGB bytes{_size_note(info)}; output: {len(info.classes) + 1} class probabilities "
        "per pixel (background first).",
        "",
        "## Training data",
        "",
        *(_table(info.data) if info.data else ["Not recorded."]),
        "",
        "## Numbers",
        "",
        *(_table(info.metrics) if info.metrics else ["Nothing was measured."]),
        "",
        "## Limits",
        "",
        *([f"- {text}" for text in info.limits] or ["Not recorded."]),
        "",
    ]
    return "\n".join(lines)


def _size_note(info: ModelInfo) -> str:
    if info.max_side_px is None:
        return " of any size"
    return f", shrunk to a longest side of {info.max_side_px} pixels"


def _table(values: dict[str, Any]) -> list[str]:
    """Write a two-column Markdown table."""
    rows = []
    for key, value in values.items():
        text = f"{value:.4f}" if isinstance(value, float) else str("-" if value is None else value)
        rows.append(f"| {key.replace('|', '/')} | {text.replace('|', '/')} |")
    return ["| | |", "|---|---|", *rows]
