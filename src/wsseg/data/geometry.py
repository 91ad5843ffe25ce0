"""Where every pixel of a view came from: one affine map, for points, boxes, scribbles and maps.

Coordinates are continuous (x, y): the pixel of column c covers [c, c + 1) and its centre is at
c + 0.5, so that a box (0, 0, W, H) is the whole image and scaling by s maps x to s * x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Geometry:
    """An affine map from a source image to a view of it.

    Attributes:
        matrix: (2, 3) float64; view = matrix[:, :2] @ (x, y) + matrix[:, 2], in pixels.
        source_size: (H, W) of the source image.
        size: (h, w) of the view.
    """

    matrix: NDArray[np.float64]
    source_size: tuple[int, int]
    size: tuple[int, int]

    def points(self, xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map points from the source to the view.

        Args:
            xy: (M, 2) source pixels.

        Returns:
            (M, 2) float32 view pixels; they may lie outside the view, see :meth:`inside`.

        Example:
            >>> identity((4, 6)).points(np.array([[1.5, 2.0]])).tolist()
            [[1.5, 2.0]]
        """
        points = np.asarray(xy, np.float64).reshape(-1, 2)
        return (points @ self.matrix[:, :2].T + self.matrix[:, 2]).astype(np.float32)

    def inside(self, xy: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Say which view points (M, 2) lie in the view; returns (M,) bool."""
        height, width = self.size
        x, y = np.asarray(xy).reshape(-1, 2).T
        inside: NDArray[np.bool_] = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return inside

    def boxes(self, xyxy: NDArray[np.floating], *, clip: bool = True) -> NDArray[np.float32]:
        """Map boxes from the source to the view.

        Args:
            xyxy: (M, 4) half-open boxes in source pixels.
            clip: Cut them at the edge of the view; a box outside becomes empty (zero area).

        Returns:
            (M, 4) float32 half-open boxes in view pixels, x0 <= x1 and y0 <= y1.
        """
        boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
        corners = np.stack([self.points(boxes[:, :2]), self.points(boxes[:, 2:])])
        mapped = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
        if clip:
            height, width = self.size
            mapped = np.clip(mapped, 0, np.array([width, height, width, height], np.float32))
        return mapped

    def scribbles(self, lines: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.float32], ...]:
        """Map polylines, each (m, 2) source pixels, to the view; they are not cut at its edge."""
        return tuple(self.points(line) for line in lines)

    def inverse(self) -> Geometry:
        """Return the map from the view back to the source."""
        linear = np.linalg.inv(self.matrix[:, :2])
        matrix = np.hstack([linear, -linear @ self.matrix[:, 2:]])
        return Geometry(matrix, source_size=self.size, size=self.source_size)

    def maps_to_source(
        self, maps: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Carry maps computed on the view back to the source by bilinear interpolation.

        Args:
            maps: (K, h', w') values over the whole view, at any resolution.

        Returns:
            (K, H, W) float32, zero where the view does not show the source, and (H, W) bool,
            True where it does.
        """
        import cv2

        height, width = self.source_size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        view = self.points(np.stack([x.ravel(), y.ravel()], axis=1))
        seen = self.inside(view).reshape(height, width)
        to_cells = np.array([maps.shape[2] / self.size[1], maps.shape[1] / self.size[0]])
        # From centres (c + 0.5) to the whole-numbered pixel indices that OpenCV samples at.
        linear = self.matrix[:, :2] * to_cells[:, None]
        offset = (linear.sum(axis=1) * 0.5 + self.matrix[:, 2] * to_cells - 0.5)[:, None]
        index_matrix = np.hstack([linear, offset])
        output = np.empty((len(maps), height, width), np.float32)
        for row, plane in zip(output, maps, strict=True):
            cv2.warpAffine(
                np.ascontiguousarray(plane, np.float32),
                index_matrix,
                (width, height),
                dst=row,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            row[~seen] = 0
        return output, seen

    def view_of(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Show a map of the source in the view: ids as they are, other values interpolated.

        Args:
            values: (H, W) over the source; integers are ids and are never mixed.

        Returns:
            (h, w), int32 for integers and else float32; 0 where the view does not show the source.

        Example:
            >>> enlarged = crop_geometry((1, 2), (0, 0, 2, 1), (0, 0, 4, 2), (2, 5))
            >>> enlarged.view_of(np.array([[7, 300]])).tolist()
            [[7, 7, 300, 300, 0], [7, 7, 300, 300, 0]]
        """
        height, width = self.size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        linear = np.linalg.inv(self.matrix[:, :2])
        source = (np.stack([x.ravel(), y.ravel()], axis=1) - self.matrix[:, 2]) @ linear.T
        seen = Geometry(self.matrix, self.size, self.source_size).inside(source)
        source_height, source_width = self.source_size
        if np.issubdtype(values.dtype, np.integer):
            columns = np.clip(np.floor(source[:, 0]), 0, source_width - 1).astype(np.intp)
            rows = np.clip(np.floor(source[:, 1]), 0, source_height - 1).astype(np.intp)
            ids = np.where(seen, values[rows, columns], 0)
            return ids.reshape(height, width).astype(np.int32)
        import cv2

        at_x, at_y = (source.T - 0.5).astype(np.float32).reshape(2, height, width)
        shown = cv2.remap(
            np.ascontiguousarray(values, np.float32),
            at_x,
            at_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ).astype(np.float32)
        shown[~seen.reshape(height, width)] = 0
        return shown


def identity(size: tuple[int, int]) -> Geometry:
    """Return the geometry of a view that is the source itself, of (H, W) pixels.

    Example:
        >>> identity((4, 6)).matrix.tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    return Geometry(np.eye(2, 3), source_size=size, size=size)


def crop_geometry(
    source_size: tuple[int, ...],
    window: tuple[int, int, int, int],
    placed: tuple[int, int, int, int],
    canvas: tuple[int, int],
) -> Geometry:
    """Return the geometry of a source window resized into a place of a canvas.

    Args:
        source_size: (H, W) of the source.
        window: Left, top, right, bottom in the source, pixels.
        placed: Left, top, right, bottom in the canvas, pixels.
        canvas: (h, w) of the view.

    Returns:
        The map from source to view.

    Example:
        >>> crop_geometry((8, 8), (2, 2, 6, 6), (0, 0, 8, 8), (8, 8)).matrix.tolist()
        [[2.0, 0.0, -4.0], [0.0, 2.0, -4.0]]
    """
    x_scale = (placed[2] - placed[0]) / (window[2] - window[0])
    y_scale = (placed[3] - placed[1]) / (window[3] - window[1])
    matrix = np.array(
        [
            [x_scale, 0, placed[0] - x_scale * window[0]],
            [0, y_scale, placed[1] - y_scale * window[1]],
        ]
    )
    return Geometry(matrix, (source_size[0], source_size[1]), canvas)


def mirror_and_turn(
    geometry: Geometry, *, hflip: bool = False, vflip: bool = False, turns: int = 0
) -> Geometry:
    """Follow a geometry by mirrors and then quarter turns against the clock.

    Args:
        geometry: The map so far.
        hflip: Mirror left to right.
        vflip: Mirror top to bottom.
        turns: Number of quarter turns, as in ``numpy.rot90``.

    Returns:
        The joined map.

    Example:
        >>> mirror_and_turn(identity((4, 6)), hflip=True).points(np.array([[1, 1]])).tolist()
        [[5.0, 1.0]]
    """
    matrix = geometry.matrix.copy()
    height, width = geometry.size
    if hflip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width
    if vflip:
        matrix[1] = -matrix[1]
        matrix[1, 2] += height
    for _ in range(turns % 4):
        matrix = np.stack([matrix[1], -matrix[0]])
        matrix[1, 2] += width
        height, width = width, height
    return Geometry(matrix, geometry.source_size, (height, width))
