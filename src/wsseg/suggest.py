"""Which shipped recipe suits a data set, by the kinds of label that its train split has."""

from __future__ import annotations

from wsseg.data.dataset import Dataset
from wsseg.localize.direct import has_kind, is_empty

SHAPES = ("boxes", "points", "scribbles")
# Where one kind of shape is all there is. One GrabCut costs a tenth of the ten of recipe "boxes".
_RECIPES = {"boxes": "grabcut", "points": "points", "scribbles": "scribbles"}


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
    if any(one.is_ok for one in labels):
        return "defects", "there are images tagged ok"
    return "tags", "no image is tagged ok"
