"""Tags from ground-truth masks, for those who say that masks may be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsseg.data.dataset import Sample
from wsseg.data.image_io import read_mask
from wsseg.data.labels import BACKGROUND, IGNORE, ClassList
from wsseg.data.problems import Problems
from wsseg.errors import DataError


def tags_from_masks(
    samples: Iterable[Sample], classes: ClassList, problems: Problems, *, root: Path
) -> tuple[Sample, ...]:
    """Tag the untagged samples that have a mask with the classes in that mask.

    Args:
        samples: Any samples; tagged ones and those without mask stay as they are.
        classes: The class list.
        problems: Receives masks that cannot be read; their samples stay untagged.
        root: The data folder, for the messages.

    Returns:
        The samples in the same order.
    """
    tagged = []
    for sample in samples:
        if sample.mask_path is not None and sample.labels.tags is None:
            try:
                present = np.unique(read_mask(sample.mask_path, classes)).tolist()
            except DataError as fault:
                problems.fault(sample.mask_path, fault, root=root)
            else:
                tags = frozenset(present) - {BACKGROUND, IGNORE}
                sample = replace(sample, labels=replace(sample.labels, tags=tags))
        tagged.append(sample)
    return tuple(tagged)
