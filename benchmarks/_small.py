"""Shipped recipes made small: networks, images and epochs for half a minute on one core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from refiners import SMALL_STEPS
from wsseg.errors import RecipeError
from wsseg.overrides import apply_override
from wsseg.recipe import Recipe, validate
from wsseg.recipe import shipped as read_shipped

Part = Literal["maps", "refine", "segment"]

BASE = "cam"
BACKBONE = "resnet10t"
# Six blocks, 64 wide: as many operations as the convolutional network with these cells.
TRANSFORMER = "test_vit"
TRANSFORMERS = ("toco",)
SOURCES = ("I", "I+S", "I+SAM", "I+CLIP")
# Images for which the lengths in pixels of the recipes are meant: their crops.
RECIPE_PX = 256
MAX_THRESHOLD = 0.95
CRF = {"name": "dense_crf", "gauss_sxy_px": 1, "bilateral_sxy_px": 20}
LOCALIZE = {
    "backbone": BACKBONE,
    "weights": "none",
    "last_stage": None,
    "output_stride": 8,
    "dropout": 0.0,
}
# A view of 0.3 of a small image has no cells to compare.
SEAM_SCALE = 0.5
# Only with weights of a network as deep as those of the papers.
WITH_WEIGHTS = ("freeze_batchnorm", "stop_gradient_after_stage", "dilate")
SEGMENT = {
    "name": "smp",
    "architecture": "unet",
    "encoder": f"tu-{BACKBONE}",
    "encoder_depth": 3,
    "weights": "none",
}
TRAINING = {
    "batch_size": 8,
    "optimiser": "adamw",
    "lr": 1.0e-3,
    "weight_decay": 1.0e-2,
    "schedule": "cosine",
    "warmup_frac": 0.05,
    "num_workers": 0,
}


class NotFromScratchError(Exception):
    """Says why a recipe cannot be run without weights."""


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    return read_shipped()


def shipped() -> dict[str, dict[str, Any]]:
    """Give the shipped recipes, read once; what is given may be changed."""
    return deepcopy(_shipped())


def tag_recipes() -> list[str]:
    """List the shipped recipes that ask for tags alone, and for knowledge of other networks."""
    return [name for name, content in shipped().items() if content["supervision"] in SOURCES]


def small(
    name: str,
    *,
    epochs: int,
    size_px: int,
    seed: int,
    segment_epochs: int | None = None,
    weights: Mapping[str, Path] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Give a shipped recipe for images of ``size_px``, trained in ``epochs``.

    Changed, for all alike:

    * localizer: backbone `BACKBONE` with cells of 8 pixels and without dropout, but the recipe's
      own last stage, stride and dropout where these are its idea (``defects``,
      ``spatial_dropout``), and `TRANSFORMER` for transformers; ``weights`` or none, and nothing
      that is frozen;
    * training: `TRAINING` and the epochs; kept are ``keep`` and balanced sampling, and the
      learning rate of transformers; recipes of several rounds have ``epochs`` in each;
    * augmentation: crops of ``size_px``; recipes for pre-trained networks get that of ``cam``;
    * maps: the scale 1 and its mirror image, a cell for 4 pixels; ten iterations of AdvCAM;
    * refiners: the small settings of ``refiners.py``; a constant background becomes the best on
      val masks, and a dense CRF has the reach of a small image;
    * dilations of heads: as far on the small map as on that of the recipe's crop;
    * segmenter: a U-Net on three stages of `BACKBONE` from scratch; views of the whole image stay
      such;
    * lengths in pixels: times ``size_px / 256``; the small view of SEAM: `SEAM_SCALE`.

    Kept is everything else: regularisers, their weights and schedules, heads, losses, rounds,
    clean-ups, corrections, what is normalised, and thresholds relative to a map's maximum.

    Args:
        name: A shipped recipe.
        epochs: Of every classifier and its rounds.
        size_px: Side of the images.
        seed: Of the run.
        segment_epochs: Of every segmenter and its rounds; None: as many.
        weights: Files for the localizer's backbone by its name; None: everything from scratch.
        overrides: ``"key=value"`` changes behind all others. Transformers keep their network.

    Returns:
        The content of a recipe.

    Raises:
        NotFromScratchError: When the recipe is about weights that training cannot replace.
    """
    content = shipped()[name]
    plain = shipped()[BASE]
    own = content["localize"]
    if content["supervision"] in ("I+CLIP", "I+SAM") or "training" not in own:
        raise NotFromScratchError(
            f"needs the weights of another network ({content['supervision']})"
        )
    content = {key: value for key, value in content.items() if key != "max_side_px"}
    content |= {"seed": seed, "evaluate": {"boundary": False}}
    content["localize"] = _localizer(name, own, plain["localize"], epochs, size_px)
    if weights is not None:
        content["localize"]["weights"] = str(weights[content["localize"]["backbone"]])
    content["refine"] = {"steps": small_steps(content["refine"]["steps"])}
    if content.get("segment"):
        is_base = content["segment"].get("weights", "none") != "none"
        source = plain["segment"] if is_base else content["segment"]
        content["segment"] = _segmenter(source, segment_epochs or epochs, size_px)
    for text in overrides:
        key = text.partition("=")[0]
        is_network = key in {f"localize.{field}" for field in LOCALIZE}
        if not (name in TRANSFORMERS and is_network):
            apply_override(content, text)
    return content


def _localizer(
    name: str, own: dict[str, Any], plain: dict[str, Any], epochs: int, size_px: int
) -> dict[str, Any]:
    from_scratch = own.get("weights", "none") == "none"
    kept = {key: value for key, value in own.items() if key not in WITH_WEIGHTS}
    made = kept | LOCALIZE
    if from_scratch and "last_stage" in own:
        made |= {"last_stage": own["last_stage"], "output_stride": own["output_stride"]}
    regularisers = [one["name"] for one in own.get("regularisers", ())]
    if "spatial_dropout" in regularisers:
        made["dropout"] = own["dropout"]
    if name in TRANSFORMERS:
        made |= {"backbone": TRANSFORMER, "last_stage": None, "output_stride": 16}
    source = own if from_scratch else plain
    made["augment"] = source["augment"] | {"crop_px": size_px}
    made["training"] = TRAINING | {"epochs": epochs} | _kept_training(source["training"])
    if name in TRANSFORMERS:
        made["training"]["lr"] = own["training"]["lr"]
    inference = own["inference"] | {"scales": [1.0], "flip": True, "map_stride_px": 4}
    if inference["extractor"]["name"] == "adv_cam":
        inference["extractor"] = inference["extractor"] | {"iterations": 10}
    made["inference"] = inference
    if "dilations" in own:
        cells, own_cells = size_px / made["output_stride"], RECIPE_PX / own["output_stride"]
        made["dilations"] = [max(1, round(d * cells / own_cells)) for d in own["dilations"]]
    made["regularisers"] = [_scaled(one, size_px) for one in own.get("regularisers", ())]
    return _scaled(made, size_px)


def _kept_training(own: dict[str, Any]) -> dict[str, Any]:
    return {key: own[key] for key in ("keep", "class_balanced_sampling") if key in own}


def _scaled(settings: dict[str, Any], size_px: int) -> dict[str, Any]:
    """Bring lengths that stand in a method's settings to the size of the images."""
    factor = size_px / RECIPE_PX
    found = dict(settings)
    if settings["name"] == "hide_and_seek":
        # A side of 0 hides nothing and stays.
        sides = settings["sizes_px"]
        found["sizes_px"] = [max(2, round(side * factor)) if side else 0 for side in sides]
    if settings["name"] == "seam":
        found["scale"] = SEAM_SCALE
    if settings["name"] == "s2c":
        found["stride_px"] = max(1, round(settings.get("stride_px", 4) * factor))
        found["peak_distance_px"] = max(1, round(settings.get("peak_distance_px", 20) * factor))
    if settings["name"] == "toco":
        # Not less than one patch of the transformer.
        found["local_crop_px"] = max(16, round(settings["local_crop_px"] * factor))
    return found


def small_steps(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make refiners small; a constant background becomes the best one on the val masks."""
    changes = _small_changes()
    made: list[dict[str, Any]] = []
    for step in steps:
        name = step["name"]
        if name in ("background_constant", "threshold"):
            made.append(sweep())
        elif name == "dense_crf":
            made.append(step | CRF)
        elif name == "pamr":
            # Its reach is that of small images already.
            made.append(step | {"scale_frac": 1.0})
        else:
            # On small maps half a cell is a tenth of an object.
            kept = {key: value for key, value in step.items() if key != "align_cells"}
            made.append(kept | changes.get(name, {}))
        if name == "irn":
            made += [sweep(), CRF]
    return made


def sweep() -> dict[str, Any]:
    """Give the step that finds the best background on the val masks, for all methods alike."""
    return {"name": "threshold", "method": "sweep", "max_value": MAX_THRESHOLD}


def _small_changes() -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for text in SMALL_STEPS:
        key, _, value = text.partition("=")
        name, _, setting = key.partition(".")
        changes.setdefault(name, {})[setting] = yaml.safe_load(value)
    for settings in changes.values():
        if "training" in settings:
            settings["training"]["num_workers"] = 0
    return changes


def _segmenter(own: dict[str, Any], epochs: int, size_px: int) -> dict[str, Any]:
    network = ("architecture", "encoder", "encoder_depth", "weights")
    made = {key: value for key, value in own.items() if key not in network} | SEGMENT
    made["training"] = TRAINING | {"epochs": epochs} | _kept_training(own["training"])
    augment = own["augment"] | {"crop_px": size_px}
    if "long_side_px" in augment:
        augment["long_side_px"] = [size_px, size_px]
    made["augment"] = augment
    crf = own.get("inference", {}).get("crf")
    if crf is not None:
        lengths = {key: value for key, value in CRF.items() if key != "name"}
        made["inference"] = own["inference"] | {"crf": crf | lengths}
    return made


def part(content: dict[str, Any], which: Part) -> Recipe:
    """Cut a small recipe down to what one part of it is judged by.

    Args:
        content: From `small`.
        which: ``maps``: the localizer, the best threshold and the dense CRF that all get.
            ``refine``: the localizer and its own refiners. ``segment``: everything.

    Returns:
        The recipe.
    """
    content = dict(content)
    if which == "maps":
        content["refine"] = {"steps": [sweep(), CRF]}
        content.pop("pseudo", None)
    elif which == "refine":
        content.pop("pseudo", None)
    elif which == "segment" and _has_bands(content):
        # Seeds: what is certain lies on both sides of the recipe's own background score.
        source = shipped()[content["name"]]["refine"]["steps"]
        content["refine"] = {"steps": source}
    if which != "segment":
        content["segment"] = None
    return validate(content)


def _has_bands(content: dict[str, Any]) -> bool:
    return "band_high" in (content.get("pseudo") or {})


def parts(content: dict[str, Any], plain: dict[str, Any]) -> list[Part]:
    """Tell in which parts a small recipe differs from plain CAM: there its idea must show.

    Args:
        content: From `small`.
        plain: The same of `BASE`.

    Returns:
        The parts; all but ``refine`` for plain CAM, which the others are measured against.

    Raises:
        NotFromScratchError: When nothing of the recipe is left.
    """
    if content["name"] == BASE:
        return ["maps", "segment"]
    found: list[Part] = []
    if same(part(content, "maps").localize) != same(part(plain, "maps").localize):
        found.append("maps")
    plain_steps = [step for step in plain["refine"]["steps"] if step["name"] != "threshold"]
    own_steps = [step for step in content["refine"]["steps"] if step["name"] != "threshold"]
    if any(step not in plain_steps for step in own_steps):
        found.append("refine")
    if _idea_of_segmenter(content) != _idea_of_segmenter(plain):
        found.append("segment")
    if not found:
        raise NotFromScratchError(f"small and without weights it is the recipe {BASE}")
    return found


def same(localize: Any) -> dict[str, Any]:
    """Give the settings of a localizer in a form that can be compared."""
    settings: dict[str, Any] = localize.model_dump(mode="json")
    return settings


def _idea_of_segmenter(content: dict[str, Any]) -> dict[str, Any]:
    segment = content.get("segment") or {}
    loss = {k: v for k, v in segment.get("loss", {}).items() if k != "class_balance"}
    ideas = {key: segment.get(key) for key in ("rounds", "correction")}
    return ideas | {"loss": {} if loss == {"name": "cross_entropy"} else loss}


def load(name: str, **settings: Any) -> dict[str, Any]:
    """Make a recipe small and check it; see `small`.

    Raises:
        NotFromScratchError: When it cannot be run from scratch.
    """
    content = small(name, **settings)
    try:
        validate(content)
    except RecipeError as error:
        raise NotFromScratchError(f"its small form is refused: {error}") from error
    return content
