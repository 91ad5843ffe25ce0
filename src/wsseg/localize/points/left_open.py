"""What growing from seeds must leave open, whatever it grew there.

* Pixels that two classes claim: a person said two things about them.
* Where a class is tagged and has no seed in the image, all that became background: it is what no
  seed reached, and so may be that class. Only strokes of background stay.
"""

from __future__ import annotations

from dataclasses import replace

from wsseg.data.labels import BACKGROUND, WeakLabels
from wsseg.data.scores import Scores
from wsseg.localize.boxes.windows import boxed_classes
from wsseg.localize.direct import LocalizeContext
from wsseg.localize.points.marks import draw_marks
from wsseg.localize.points.seed_map import SeedLocalizerConfig, unseeded_classes


def left_open(
    scores: Scores,
    labels: WeakLabels,
    config: SeedLocalizerConfig,
    context: LocalizeContext | None = None,
) -> Scores:
    """Clear the pixels of which nothing is known after all.

    Args:
        scores: Scores at full size (K, H, W) that were grown from seeds; not changed.
        labels: The labels that they were grown from, in pixels of the image.
        config: How seeds are drawn; boxes count as seeds where its `label_kinds` name them.
        context: Takes notes.

    Returns:
        Scores of the same classes, 0 in all rows where nothing is known.

    Example:
        >>> import numpy as np
        >>> from wsseg.data.labels import Points
        >>> from wsseg.localize.direct import scores_of_mask
        >>> grown = scores_of_mask(np.array([[1, 1, 0, 0]], np.uint8))
        >>> labels = WeakLabels(tags={1, 2}, points=Points([[0.5, 0.5]], [1]))
        >>> config = SeedLocalizerConfig(name="any", point_radius_px=0.2)
        >>> left_open(grown, labels, config).values[:, 0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    """
    seeds, contested = draw_marks(
        labels,
        scores.size,
        point_radius_px=config.point_radius_px,
        point_spacing_frac=config.point_spacing_frac,
        scribble_width_px=config.scribble_width_px,
    )
    missing = unseeded_classes(labels, seeds)
    if missing and "boxes" in config.label_kinds:
        missing -= boxed_classes(labels, scores.size)
    opened = contested
    if missing:
        is_ground = (scores.values.argmax(axis=0) == 0) & ~scores.unknown
        opened = contested | (is_ground & (seeds != BACKGROUND))
        if context is not None:
            named = ", ".join(map(str, sorted(missing)))
            context.note(
                f"tagged class(es) {named} have no seed in the image, so what would be background "
                "is unknown"
            )
    if not opened.any():
        return scores
    values = scores.values.copy()
    values[:, opened] = 0.0
    return replace(scores, values=values)
