"""What methods exist: name → "module:object" tables, entry points of other packages.

Listing imports nothing; a method's module is imported when the method is used. Other packages
add methods through the entry-point groups ``wsseg.cues``, ``wsseg.localizers``,
``wsseg.refiners``, ``wsseg.regularisers``, ``wsseg.segmenters`` and ``wsseg.segments``.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from wsseg.config import MethodConfig
from wsseg.errors import RecipeError, unknown_name

Group = Literal["cues", "localizers", "refiners", "regularisers", "segmenters", "segments"]

TABLES: dict[str, dict[str, str]] = {
    "cues": {
        "anomaly": "wsseg.cues.anomaly:anomaly",
        "folder": "wsseg.cues.folder:folder",
        "ft": "wsseg.cues.saliency_ft:ft",
        "mbd": "wsseg.cues.saliency_mbd:mbd",
        "model": "wsseg.cues.saliency_model:model",
        "rbd": "wsseg.cues.saliency_rbd:rbd",
        "spectral_residual": "wsseg.cues.saliency_spectral:spectral_residual",
    },
    "localizers": {
        "acfn": "wsseg.localize.tags.acfn:acfn",
        "acol": "wsseg.localize.tags.acol:acol",
        "ae_psl": "wsseg.localize.tags.ae_psl:ae_psl",
        "bap": "wsseg.localize.boxes.bap:bap",
        "box_prompts": "wsseg.localize.prompted:box_prompts",
        "cam": "wsseg.localize.tags.cam:cam",
        "clip_es": "wsseg.localize.clip_es:clip_es",
        "crf_boxes": "wsseg.localize.boxes.crf:crf_boxes",
        "eps": "wsseg.localize.tags.eps:eps",
        "filled_boxes": "wsseg.localize.boxes.fill:filled_boxes",
        "geodesic": "wsseg.localize.points.geodesic:geodesic",
        "grabcut": "wsseg.localize.boxes.grabcut:grabcut",
        "grabcut_jitter": "wsseg.localize.boxes.grabcut_jitter:grabcut_jitter",
        "grabcut_scribbles": "wsseg.localize.scribbles.grabcut_scribbles:grabcut_scribbles",
        "graphnet": "wsseg.localize.scribbles.graphnet:graphnet",
        "inner_boxes": "wsseg.localize.boxes.fill:inner_boxes",
        "label_propagation": "wsseg.localize.scribbles.label_propagation:label_propagation",
        "mdc": "wsseg.localize.tags.mdc:mdc",
        "mixed": "wsseg.localize.mixed:mixed",
        "point_prompts": "wsseg.localize.prompted:point_prompts",
        "random_walker_seeds": "wsseg.localize.points.random_walker_seeds:random_walker_seeds",
        "recam": "wsseg.localize.tags.recam:recam",
        "sc_cam": "wsseg.localize.tags.sc_cam:sc_cam",
        "scribblesup": "wsseg.localize.scribbles.scribblesup:scribblesup",
        "sdi_consensus": "wsseg.localize.boxes.sdi_consensus:sdi_consensus",
        "seeds": "wsseg.localize.points.seeds:seeds",
        "toco": "wsseg.localize.tags.toco:toco",
    },
    "refiners": {
        "affinity_net": "wsseg.refine.affinity_net:affinity_net",
        "attention_affinity": "wsseg.refine.attention_affinity:attention_affinity",
        "background_constant": "wsseg.refine.background:background_constant",
        "background_cue": "wsseg.refine.background:background_cue",
        "background_cue_hard": "wsseg.refine.background_cue_hard:background_cue_hard",
        "background_power": "wsseg.refine.background:background_power",
        "dense_crf": "wsseg.refine.dense_crf:dense_crf",
        "guided_filter": "wsseg.refine.guided_filter:guided_filter",
        "guided_labelling": "wsseg.refine.guided_labelling:guided_labelling",
        "irn": "wsseg.refine.irn:irn",
        "map_prompts": "wsseg.refine.map_prompts:map_prompts",
        "pamr": "wsseg.refine.pamr:pamr",
        "random_walker": "wsseg.refine.random_walker:random_walker",
        "segment_merge": "wsseg.refine.segment_merge:segment_merge",
        "superpixel_pooling": "wsseg.refine.superpixel_pooling:superpixel_pooling",
        "superpixel_voting": "wsseg.refine.superpixel_voting:superpixel_voting",
        "threshold": "wsseg.refine.threshold:threshold",
    },
    "regularisers": {
        "cutmix": "wsseg.localize.regularise.cutmix:CutmixRegulariser",
        "cutout": "wsseg.localize.regularise.cutout:CutoutRegulariser",
        "hide_and_seek": "wsseg.localize.regularise.hide_and_seek:HideAndSeekRegulariser",
        "mixup_cam": "wsseg.localize.regularise.mixup_cam:MixupCamRegulariser",
        "oc_cse": "wsseg.localize.regularise.oc_cse:OcCseRegulariser",
        "puzzle_cam": "wsseg.localize.regularise.puzzle_cam:PuzzleCamRegulariser",
        "s2c": "wsseg.localize.regularise.s2c:S2cRegulariser",
        "seam": "wsseg.localize.regularise.seam:SeamRegulariser",
        "spatial_dropout": "wsseg.localize.regularise.spatial_dropout:SpatialDropoutRegulariser",
    },
    "segmenters": {
        "bb_unet": "wsseg.segment.bb_unet:bb_unet",
        "smp": "wsseg.segment.task:smp",
    },
    "segments": {
        "folder": "wsseg.cues.segments_folder:folder",
        "sam": "wsseg.cues.segments_sam:sam",
        "superpixels": "wsseg.cues.segments_tree:superpixel_tree",
    },
}


@cache
def table(group: Group) -> dict[str, str]:
    """List the methods of a group.

    Args:
        group: ``"cues"``, ``"localizers"``, ``"refiners"``, ``"regularisers"``,
            ``"segmenters"`` or ``"segments"`` (the backends of `wsseg.cues.segments`).

    Returns:
        ``{name: "module:object"}``; built-in methods win over third-party ones of the same name.
    """
    found = {point.name: point.value for point in entry_points(group=f"wsseg.{group}")}
    return found | TABLES[group]


def load(group: Group, name: str) -> Any:
    """Import a method by its name.

    Args:
        group: The group that the method belongs to.
        name: Its registered name.

    Returns:
        The registered object (a function, a `FittedRefiner`, or the class of a `Regulariser`).

    Raises:
        RecipeError: When no method has that name, or its module cannot be imported.
    """
    known = table(group)
    if name not in known:
        raise RecipeError(unknown_name(group.removesuffix("s"), name, known))
    module_name, _, attribute = known[name].partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f'The {group.removesuffix("s")} "{name}" ({known[name]}) cannot be loaded: {error}.'
        ) from error


def config_class(group: Group, name: str) -> type[MethodConfig]:
    """Find the configuration class of a method: the default of its ``config`` parameter.

    Args:
        group: The group that the method belongs to.
        name: Its registered name.

    Returns:
        The pydantic class that validates the method's settings.

    Raises:
        RecipeError: When the method is unknown or declares no configuration.
    """
    method = load(group, name)
    declared = getattr(method, "config_class", None)
    if declared is None:
        parameter = inspect.signature(method).parameters.get("config")
        if parameter is not None and isinstance(parameter.default, MethodConfig):
            declared = type(parameter.default)
    if declared is None:
        raise RecipeError(
            f'The {group.removesuffix("s")} "{name}" declares no configuration: give its '
            "`config` parameter a default that is a MethodConfig."
        )
    return declared


def settings(group: Group, value: Any) -> MethodConfig:
    """Validate one method's settings with the class that its name stands for.

    Args:
        group: The group that the method belongs to.
        value: Settings, a mapping with a ``name``, or a name alone.

    Returns:
        The settings.

    Raises:
        ValueError: When they are wrong, in the form that pydantic reports.
    """
    if isinstance(value, MethodConfig):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"expected a mapping with a `name`, got {value!r}")
    try:
        cls = config_class(group, value["name"])
    except RecipeError as error:
        raise ValueError(str(error)) from error
    return cls.model_validate(value)
