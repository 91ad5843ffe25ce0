"""Pixels whose class is known: the seeds that all else grows from.

They are the points and strokes that people drew (`wsseg.localize.points.marks`).

Where nobody marked background, superpixels at the border of the image that hold no seed may stand
in for it: objects are rarely cut off on all sides. Not so superpixels that two classes claim, and
none where a tagged class has no seed in the image, because they may be that class.

Where objects are alike, lie close together and have a mark each, as nuclei do, ``ridges`` adds the
lines halfway between two marks: the edges of the Voronoi cells, as in H. Qu et al., "Weakly
Supervised Deep Nuclei Segmentation Using Points Annotation in Histopathology Images", MIDL 2019
(from memory; they train a network on them).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.cues.superpixels import SuperpixelConfig, superpixels
from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.localize.direct import DirectLocalizerConfig, LocalizeContext
from wsseg.localize.points.marks import SeedMap, draw_marks, ridges


class SeedLocalizerConfig(DirectLocalizerConfig):
    """What all localizers from points and scribbles share."""

    label_kinds: ClassVar[tuple[str, ...]] = ("points", "scribbles")

    point_radius_px: float = Field(
        3.0, gt=0, le=1000, description="Radius of the disc that stands for a point, pixels."
    )
    point_spacing_frac: float = Field(
        0.125,
        gt=0,
        le=1,
        description="A disc reaches at most this share of the way to the next point, so that it "
        "stays within its object where there are many small ones.",
    )
    scribble_width_px: float = Field(
        3.0, ge=1, le=1000, description="Width of a drawn scribble, pixels."
    )
    background: Literal["none", "border"] = Field(
        "border",
        description="Where no scribble marks background: border = superpixels at the border of the "
        "image without any seed stand in for it; none: nothing does.",
    )
    superpixels: SuperpixelConfig = Field(
        SuperpixelConfig(area_px=64), description="Superpixels, for `background`."
    )
    ridges: bool = Field(
        False,
        description="Background also on the lines halfway between two points or strokes of "
        "objects; for many objects of one size that all have a mark of their own.",
    )


def seeds_of(
    image: npt.NDArray[np.uint8],
    labels: WeakLabels,
    config: SeedLocalizerConfig,
    context: LocalizeContext | None = None,
    *,
    stand_in: bool = False,
) -> SeedMap:
    """Draw the seeds of an image, background included where the settings ask for it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: Its labels, in pixels of the image.
        config: How seeds are drawn.
        context: Takes notes.
        stand_in: Let superpixels at the border stand in for all that is not seeded even where a
            tagged class has no seed, so that the others have something to grow against. The
            caller passes the result to `wsseg.localize.points.left_open.left_open`.

    Returns:
        (H, W) uint8: 0 background, class ids, 255 where nothing is known.
    """
    seeds, contested = draw_marks(
        labels,
        (image.shape[0], image.shape[1]),
        point_radius_px=config.point_radius_px,
        point_spacing_frac=config.point_spacing_frac,
        scribble_width_px=config.scribble_width_px,
        context=context,
    )
    is_marked = bool((seeds == BACKGROUND).any())
    takes_border = config.background == "border" and not is_marked
    if not (takes_border or config.ridges) or not (seeds != IGNORE).any():
        return seeds
    if unseeded_classes(labels, seeds) and not stand_in:
        if context is not None:
            context.note("a tagged class has no seed, so the border may be that class")
        return seeds
    if config.ridges:
        between = ridges(labels, seeds.shape) & (seeds == IGNORE) & ~contested
        seeds[between] = BACKGROUND
    if not takes_border:
        return seeds
    border = border_background(image, seeds, config.superpixels, contested)
    seeds[border] = BACKGROUND
    if context is not None:
        context.facts["automatic_background"] = round(float(border.mean()), 4)
        if not border.any():
            context.note("no background is known: every superpixel at the border has a seed")
    return seeds


def unseeded_classes(labels: WeakLabels, seeds: SeedMap) -> frozenset[int]:
    """List the tagged classes that no seed of the image shows: they may be anywhere."""
    return (labels.tags or frozenset()) - frozenset(np.unique(seeds).tolist())


def border_background(
    image: npt.NDArray[np.uint8],
    seeds: SeedMap,
    config: SuperpixelConfig = SuperpixelConfig(),
    contested: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Find the superpixels at the border of the image that hold no seed.

    Args:
        image: (H, W, 3) uint8 RGB.
        seeds: (H, W) uint8, 255 where nothing is known.
        config: Which superpixels.
        contested: (H, W) bool, pixels that two classes claim: some seed is there, too.

    Returns:
        (H, W) bool.
    """
    cells = superpixels(image, config)
    edge = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    at_border = np.zeros(int(cells.max()) + 1, np.bool_)
    at_border[edge] = True
    at_border[cells[seeds != IGNORE]] = False
    if contested is not None:
        at_border[cells[contested]] = False
    return np.asarray(at_border[cells], np.bool_)


def fill_from_seeds(seeds: SeedMap) -> str:
    """Say why nothing can grow from seeds; ``""`` where it can."""
    known = set(np.unique(seeds).tolist()) - {IGNORE}
    if not known:
        return "no seed lies in the image"
    if len(known) == 1:
        return "all seeds are of one class, so there is nothing to tell it from"
    return "" if (seeds == IGNORE).any() else "every pixel is a seed"
