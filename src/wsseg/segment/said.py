"""Pixels of which a person said something: no self-training and no correction changes them.

From the weakest to the strongest: pixels under points and along scribbles; whole masks of images
that a painted mask led (localizer `mixed`); corrections of pseudo masks by people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsseg.context import RunContext
from wsseg.data.dataset import Sample
from wsseg.pseudo.corrections import Given, find_corrections, read_correction
from wsseg.segment.draft import Mask

# The pixel that a point lies in, and the line of a scribble without its width.
_POINT_RADIUS_PX = 0.5
_SCRIBBLE_WIDTH_PX = 1.0


@dataclass(frozen=True)
class Said:
    """What people gave, pixel by pixel.

    Args:
        painted: Ids of the images whose first mask a person painted.
        corrections_dir: Folder of corrections, see `wsseg.pseudo.corrections`; None: none.
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

    @cached_property
    def _corrections(self) -> Mapping[str, Path]:
        """The files of the corrections by the ids of their images."""
        return {} if self.corrections_dir is None else find_corrections(self.corrections_dir)

    def is_silent(self, sample: Sample) -> bool:
        """Tell whether nobody said anything of any pixel of an image."""
        labels = sample.labels
        has_marks = labels.points is not None or labels.scribbles is not None
        return not (has_marks or sample.id in self.painted or sample.id in self._corrections)

    def pixels(self, sample: Sample, first: Mask) -> Given:
        """Find the pixels of an image of which a person said something.

        Args:
            sample: The image.
            first: (H, W) uint8, its first pseudo mask.

        Returns:
            What was said; pixels that a correction ignores are among it.

        Raises:
            DataError: When a correction cannot be read.
        """
        found = Given.nothing(first.shape)
        labels = sample.labels
        if labels.points is not None or labels.scribbles is not None:
            from wsseg.localize.points.marks import draw_marks

            seeds = draw_marks(
                labels,
                (first.shape[0], first.shape[1]),
                point_radius_px=_POINT_RADIUS_PX,
                scribble_width_px=_SCRIBBLE_WIDTH_PX,
            ).seeds
            found = Given.of_mask(seeds)
        if sample.id in self.painted:
            found = found.also(Given.of_mask(first))
        if sample.id in self._corrections:
            found = found.also(read_correction(self._corrections[sample.id]))
        return found
