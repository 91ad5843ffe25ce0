"""Pixels whose class a person gave: no self-training and no correction changes them.

From the weakest to the strongest: pixels under points and along scribbles; whole masks of images
that a painted mask led (localizer `mixed`); corrections of pseudo masks by people.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsseg.context import RunContext
from wsseg.data.dataset import Sample
from wsseg.data.image_io import read_mask
from wsseg.data.labels import IGNORE
from wsseg.segment.draft import Mask

# The pixel that a point lies in, and the line of a scribble without its width.
_POINT_RADIUS_PX = 0.5
_SCRIBBLE_WIDTH_PX = 1.0


@dataclass(frozen=True)
class Said:
    """What people gave, pixel by pixel.

    Args:
        painted: Ids of the images whose first mask a person painted.
        corrections_dir: Folder of corrections, ``ID.png`` with 255 where untouched; None: none.
    """

    painted: frozenset[str] = frozenset()
    corrections_dir: Path | None = None

    @classmethod
    def of_run(cls, context: RunContext) -> Said:
        """Read which images were led by painted masks, and where corrections are."""
        from wsseg.localize.kinds import led_by
        from wsseg.rundir import StageDir

        painted: frozenset[str] = frozenset()
        if context.localize_dir is not None:
            kinds = led_by(StageDir(context.localize_dir, "").manifest())
            painted = frozenset(key for key, kind in kinds.items() if kind == "masks")
        return cls(painted, context.corrections_dir)

    def pixels(self, sample: Sample, first: Mask) -> Mask:
        """Find the pixels of an image whose class a person gave.

        Args:
            sample: The image.
            first: (H, W) uint8, its first pseudo mask.

        Returns:
            (H, W) uint8 class ids, 255 where nobody said.

        Raises:
            DataError: When a correction cannot be read.
        """
        found = np.full(first.shape, IGNORE, np.uint8)
        labels = sample.labels
        if labels.points is not None or labels.scribbles is not None:
            from wsseg.localize.points.seed_map import draw_seeds

            found = draw_seeds(
                labels,
                (first.shape[0], first.shape[1]),
                point_radius_px=_POINT_RADIUS_PX,
                scribble_width_px=_SCRIBBLE_WIDTH_PX,
            )
        if sample.id in self.painted:
            found = over(found, first)
        if self.corrections_dir is not None:
            path = self.corrections_dir / f"{sample.id}.png"
            if path.is_file():
                found = over(found, read_mask(path))
        return found


def over(mask: Mask, given: Mask) -> Mask:
    """Lay pixels that are known over a mask of the same size.

    Args:
        mask: (H, W) uint8.
        given: (H, W) uint8, 255 where nothing is known.

    Returns:
        (H, W) uint8.

    Example:
        >>> over(np.array([[0, 1, 255]], np.uint8), np.array([[255, 2, 0]], np.uint8)).tolist()
        [[0, 2, 0]]
    """
    return np.where(given == IGNORE, mask, given)
