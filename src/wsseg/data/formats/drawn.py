"""What one annotation draws, in the words that all annotation tools share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.data.dataset import Split
from wsseg.data.problems import Problems
from wsseg.data.raster import Region

Kind = Literal["tag", "box", "point", "line", "polygon", "mask", "unknown"]
Coordinates = NDArray[np.float64]


class UnusableError(Exception):
    """An annotation cannot be used: what is wrong, and the remedy; readers make it a problem."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One annotation, as it stands in the file.

    Args:
        name: Class name; "background" and its like mark background, "ignore" pixels not to use.
        kind: What was drawn; "unknown" where wsseg has no use for it, so that only the class
            counts.
        where: How to find it in its file, for messages, e.g. "shape 3".
        xy: (n, 2) points (x, y). A box has two, left top and right bottom; a point one or more; a
            line one or more. Pixels, or shares of the image.
        rings: The outlines of a polygon, each (m, 2), m >= 3; filled together.
        region: The pixels of a mask.
        box: Corners of a box that belongs to a polygon or mask.
        level: Which of two overlapping shapes is on top, where the tool says so.
        what: The tool's name for an unknown shape.
    """

    name: str
    kind: Kind
    where: str
    xy: Coordinates | None = None
    rings: tuple[Coordinates, ...] = ()
    region: Region | None = None
    box: Coordinates | None = None
    level: int = 0
    what: str = ""


@dataclass(frozen=True, eq=False)
class Annotated:
    """One image with all that is drawn on it.

    Args:
        file: The annotation file, for messages.
        id: Sample id.
        image_path: The image.
        drawn: The annotations; None where nobody looked at the image.
        split: The split.
        group: The group, or None.
        stated_size: (H, W) that the file says, or None.
        in_shares: Whether coordinates are shares of width and height instead of pixels.
    """

    file: str
    id: str
    image_path: Path
    drawn: tuple[Drawn, ...] | None
    split: Split = "train"
    group: str | None = None
    stated_size: tuple[int, int] | None = None
    in_shares: bool = False


def parse_each(
    entries: Iterable[tuple[str, Any]],
    parse: Callable[[str, Any], Drawn | None],
    where: str,
    problems: Problems,
) -> tuple[Drawn, ...] | None:
    """Parse all annotations of an image, and report every one that cannot be.

    Args:
        entries: How to find each in its file, and its content.
        parse: Makes a `Drawn` of both, None for what is no annotation of the image; may raise
            `UnusableError`.
        where: File and image, for messages.
        problems: Receives what is wrong.

    Returns:
        The annotations; None when one cannot be used, because the labels would be incomplete.
    """
    drawn: list[Drawn] = []
    is_sound = True
    for name, entry in entries:
        try:
            one = parse(name, entry)
        except UnusableError as fault:
            problems.error(f"{where}, {name}", *fault.args)
            is_sound = False
        else:
            drawn += [one] if one is not None else []
    return tuple(drawn) if is_sound else None
