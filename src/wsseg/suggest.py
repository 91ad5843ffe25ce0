"""Which shipped recipe suits a data set, by the kinds of label that its train split has."""

from __future__ import annotations

from wsseg.data.dataset import Dataset
from wsseg.localize.direct import has_kind, is_empty

SHAPES = ("boxes", "points", "scribbles")
# Where one kind of shape is all there is. One GrabCut costs a tenth of the ten of recipe "boxes".
_RECIPES = {"boxes": "grabcut", "points": "points", "scribbles": "scribbles"}
# Inspected parts are mostly sound; a few empty images among many objects are no inspection. On the
# synthetic scenes with 0 to 18 % of empty images `tags` gains over plain CAM everywhere while
# `defects` may lose; on scenes of defects, with 44 %, it is the other way (docs/benchmarks.md).
MIN_OK_FRAC = 0.25


def suggest_recipe(dataset: Dataset) -> tuple[str, str]:
    """Pick a shipped recipe by the kinds of label that the train split has.

    Args:
        dataset: The data set.

    Returns:
        The recipe's name, and why in a few words.
    """
    labels = [sample.labels for sample in dataset.split("train")]
    found = [kind for kind in SHAPES if any(has_kind(one, (kind,)) for one in labels)]
    bare = sum(not is_empty(one) and bool(one.tags) and not has_kind(one, SHAPES) for one in labels)
    if len(found) == 1 and not bare:
        return _RECIPES[found[0]], f"there are {found[0]}"
    if found:
        kinds = " and ".join([*found, *(["images with tags alone"] if bare else [])])
        return "mixed", f"there are {kinds}"
    num_ok = sum(one.is_ok for one in labels)
    num_known = sum(one.tags is not None for one in labels)
    if not num_ok:
        return "tags", "no image is tagged ok"
    if num_ok >= MIN_OK_FRAC * num_known:
        return "defects", f"{num_ok} of {num_known} images are tagged ok"
    return "tags", (
        f"only {num_ok} of {num_known} images are tagged ok; for small defects take defects"
    )
