"""Pictures of masks and maps over their image, small enough to live inside one HTML page.

Colours have the hues of the class list, as in the mask files, but are lighter: the darkest of them
vanish on dark images. Because no palette of many colours can be told apart by everybody, a region
also carries its class number and an outline; colour is never the only sign.

Reference: the heat maps use the colour map "inferno", whose lightness rises evenly (N. Smith,
S. van der Walt, "A Better Default Colormap for Matplotlib", SciPy conference, 2015).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import BACKGROUND, IGNORE, ClassList

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# A thin defect may cover less than half of a thumbnail pixel and must not vanish from the page:
# foreground coverage counts this much more than background coverage.
_FOREGROUND_WEIGHT = 3.0
_HATCH_PERIOD_PX = 8
# Sizes relative to the longer side: pages show pictures smaller than they are stored.
_OUTLINE_SHARE, _LETTER_SHARE = 160, 19
_GAMMA, _FLOOR = 0.4, 0.12


def display_palette(classes: ClassList) -> NDArray[np.uint8]:
    """Lighten the class list's colours for viewing, keeping hues and differences.

    Args:
        classes: Gives the colours.

    Returns:
        (256, 3) uint8 RGB; black (the background) stays black.

    Example:
        >>> display_palette(ClassList(("a",)))[1].tolist()
        [201, 31, 31]
    """
    share = classes.palette().astype(np.float64) / 255.0
    lifted = share**_GAMMA
    lifted = np.where(share.any(axis=1, keepdims=True), _FLOOR + (1 - _FLOOR) * lifted, 0.0)
    return np.rint(lifted * 255.0).astype(np.uint8)


def shrink_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask for viewing; small and thin foreground stays visible.

    Each target pixel takes the class that covers most of it, where foreground counts three times
    as much as background. For looking at only: areas grow a little.

    Args:
        mask: (H, W) uint8 class ids, 255 ignore.
        size: (h, w) of the result.

    Returns:
        (h, w) uint8.

    Example:
        >>> line = np.zeros((40, 40), np.uint8); line[:, 20] = 1
        >>> bool((shrink_mask(line, (20, 20)) == 1).any())
        True
    """
    from PIL import Image

    if mask.shape == size:
        return mask
    target = (size[1], size[0])
    if size[0] >= mask.shape[0] and size[1] >= mask.shape[1]:
        return np.asarray(Image.fromarray(mask).resize(target, Image.Resampling.NEAREST))
    best = np.full(size, -1.0, dtype=np.float32)
    result = np.zeros(size, dtype=np.uint8)
    for value in np.unique(mask):
        plane = Image.fromarray((mask == value).astype(np.float32))
        cover = np.asarray(plane.resize(target, Image.Resampling.BOX), dtype=np.float32)
        if value not in (BACKGROUND, IGNORE):
            cover = cover * _FOREGROUND_WEIGHT
        wins = cover > best
        result[wins] = value
        best[wins] = cover[wins]
    return result


def contour(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the outline of every foreground region, one pixel wide, inside the region.

    Args:
        mask: (H, W) uint8 class ids, 255 ignore.

    Returns:
        (H, W) bool: foreground pixels with a 4-neighbour of another value. The image border is
        no outline.

    Example:
        >>> contour(np.array([[0, 1, 1, 1]], np.uint8)).tolist()
        [[False, True, False, False]]
    """
    edge = np.zeros(mask.shape, dtype=np.bool_)
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (mask != BACKGROUND) & (mask != IGNORE)


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], classes: ClassList, alpha: float = 0.45
) -> NDArray[np.uint8]:
    """Lay a mask over its image: tinted regions, solid outlines, a number on each class.

    Pixels to ignore get light diagonal lines. The image is shown a little greyer, so that
    colours belong to classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class ids, 255 ignore; same size as the image.
        classes: Gives the colours.
        alpha: Strength of the tint in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: When the sizes differ.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"image is {image.shape[:2]} and mask is {mask.shape} (rows, columns); "
            "they must be the same size"
        )
    palette = display_palette(classes)
    shown = greyer(image, keep=0.35)
    region = (mask != BACKGROUND) & (mask != IGNORE)
    tint = palette[mask].astype(np.float32)
    shown[region] = (1 - alpha) * shown[region] + alpha * tint[region]
    _hatch(shown, mask == IGNORE)
    edge = _thicker(contour(mask), region)
    shown[edge] = tint[edge]
    return _with_numbers(np.rint(shown).astype(np.uint8), mask, palette)


def heatmap(
    image: NDArray[np.uint8],
    values: NDArray[np.floating],
    *,
    alpha: float = 0.65,
    left_open: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Lay a map of evidence over its image.

    The colour is the value ("inferno": dark is little, yellow is much) and never depends on the
    image, which shines through in grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        values: (h, w) evidence in [0, 1] at any size; enlarged bilinearly.
        alpha: Strength of the map in [0, 1].
        left_open: (h, w) bool, cells of which nothing is known, not even that they are background;
            they get light diagonal lines. None: none.

    Returns:
        (H, W, 3) uint8 RGB.

    Example:
        >>> grey = np.full((2, 2, 3), 128, np.uint8)
        >>> heatmap(grey, np.ones((1, 1), np.float32), alpha=1.0)[0, 0].tolist()
        [252, 255, 164]
    """
    from PIL import Image

    height, width = image.shape[:2]
    plane = Image.fromarray(np.asarray(values, dtype=np.float32))
    full = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    level = np.rint(np.clip(np.nan_to_num(full), 0, 1) * 255).astype(np.uint8)
    shown = (1 - alpha) * greyer(image, keep=0.0) + alpha * _inferno()[level]
    if left_open is not None:
        open_plane = Image.fromarray(left_open.astype(np.uint8))
        larger = np.asarray(open_plane.resize((width, height), Image.Resampling.NEAREST)) > 0
        _hatch(shown, larger)
    return np.rint(shown).astype(np.uint8)


def greyer(image: NDArray[np.uint8], *, keep: float) -> NDArray[np.float32]:
    """Take away colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        keep: Share of colour that stays, in [0, 1].

    Returns:
        (H, W, 3) float32 in [0, 255].
    """
    colour = image.astype(np.float32)
    grey = colour @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return (keep * colour + (1 - keep) * grey[..., None]).astype(np.float32)


def _thicker(edge: NDArray[np.bool_], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Widen outlines inwards so that they can be seen in a small tile."""
    from scipy import ndimage

    extra = round(max(edge.shape) / _OUTLINE_SHARE) - 1
    if extra < 1 or not edge.any():
        return edge
    wide: NDArray[np.bool_] = ndimage.binary_dilation(edge, iterations=extra) & region
    return wide


def _hatch(shown: NDArray[np.floating], where: NDArray[np.bool_]) -> None:
    """Draw light diagonal lines over some pixels (H, W) of a picture (H, W, 3), in place."""
    lines = where & _hatching(where.shape)
    shown[lines] = 0.35 * shown[lines] + 0.65 * 235.0


def _hatching(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    lines: NDArray[np.bool_] = (rows + columns) % _HATCH_PERIOD_PX < 3
    return lines


def _with_numbers(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Write each class's number on its largest region."""
    from PIL import Image, ImageDraw

    covered = (mask != BACKGROUND) & (mask != IGNORE)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    size = max(9, max(mask.shape) // _LETTER_SHARE)
    for class_id in np.unique(mask):
        anchor = (
            None if class_id in (BACKGROUND, IGNORE) else _anchor(mask == class_id, covered, size)
        )
        if anchor is None:
            continue
        colour = (int(palette[class_id][0]), int(palette[class_id][1]), int(palette[class_id][2]))
        write_number(draw, str(class_id), anchor, size, colour)
    return np.array(canvas, dtype=np.uint8)


def write_number(
    draw: ImageDraw,
    text: str,
    place: tuple[float, float],
    size: int,
    colour: tuple[int, int, int],
) -> None:
    """Write a class number on a dark plate, moved into the picture where it would leave it.

    Args:
        draw: Draws on the picture.
        text: The number.
        place: (x, y) of its middle, pixels.
        size: Height of the letters, pixels.
        colour: RGB of the plate's border.
    """
    from PIL import ImageFont

    width, height = draw.im.size
    font = ImageFont.load_default(size)
    half, tall = (draw.textlength(text, font=font) + 0.5 * size) / 2, 0.62 * size
    x = float(np.clip(place[0], half, max(half, width - half - 1)))
    y = float(np.clip(place[1], tall, max(tall, height - tall - 1)))
    plate = (x - half, y - tall, x + half, y + tall)
    draw.rounded_rectangle(plate, size // 4, (20, 22, 26), colour)
    draw.text((x, y), text, font=font, fill=(255, 255, 255), anchor="mm")


def _anchor(
    region: NDArray[np.bool_], covered: NDArray[np.bool_], size: int
) -> tuple[float, float] | None:
    """Find the (x, y) for a number: inside the largest component, or beside it when it is thin."""
    from scipy import ndimage

    labelled, count = ndimage.label(region)
    if count == 0:
        return None
    sizes = np.bincount(labelled.ravel())[1:]
    biggest = labelled == int(sizes.argmax()) + 1
    depth = ndimage.distance_transform_edt(np.pad(biggest, 1))[1:-1, 1:-1]
    if depth.max() >= 1.2 * size:
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return float(column), float(row)
    return _beside(biggest, covered, size)


def _beside(
    region: NDArray[np.bool_], covered: NDArray[np.bool_], size: int
) -> tuple[float, float]:
    """Choose the end of a thin region where a number hides the least of any region."""
    rows, columns = np.nonzero(region)
    places = []
    for index in (columns.argmax(), columns.argmin(), rows.argmin(), rows.argmax()):
        for across, down in ((1, -1), (-1, -1), (1, 1), (-1, 1)):
            x, y = columns[index] + across * size, rows[index] + down * size
            top, left = int(max(0, y - size // 2)), int(max(0, x - size // 2))
            window = covered[top : int(max(0, y + size // 2)), left : int(max(0, x + size // 2))]
            # A place beyond the border is moved back in and may then hide something.
            missing = size * size - window.size
            places.append((int(window.sum()) + max(0, missing), float(x), float(y)))
    _, x, y = min(places, key=lambda place: place[0])
    return x, y


@cache
def _inferno() -> NDArray[np.float32]:
    from matplotlib import colormaps

    table = colormaps["inferno"](np.arange(256))[:, :3] * 255.0
    return np.asarray(np.rint(table), dtype=np.float32)
