"""Kinds of label, from the strongest to the weakest, and which of them led in an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from wsseg.data.labels import WeakLabels
from wsseg.localize.direct import has_kind

LED_BY = "led_by"
"""The manifest's word for the kind of label that led."""

Kind = Literal["masks", "scribbles", "boxes", "points", "tags"]

KINDS: tuple[Kind, ...] = ("masks", "scribbles", "boxes", "points", "tags")
"""From the strongest to the weakest."""


def leading_kind(labels: WeakLabels, *, mask: bool = False) -> Kind | None:
    """Name the strongest kind of label of an image.

    Args:
        labels: The labels of the image.
        mask: Whether a painted mask may be used, too.

    Returns:
        Out of masks, scribbles, boxes, points and tags; None where there is no label.

    Example:
        >>> from wsseg.data.labels import Points
        >>> leading_kind(WeakLabels(tags={1}, points=Points([[3, 4]], [1])))
        'points'
    """
    if mask:
        return "masks"
    return next((kind for kind in KINDS[1:] if has_kind(labels, (kind,))), None)


def led_by(manifest: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Read from the manifest of the localize stage which kind of label led in each image.

    Args:
        manifest: What `wsseg.rundir.StageDir.manifest` returns.

    Returns:
        ``{sample id: kind}``; images of other localizers are not in it.
    """
    return {key: str(line[LED_BY]) for key, line in manifest.items() if LED_BY in line}
