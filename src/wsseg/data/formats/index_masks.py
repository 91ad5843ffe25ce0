"""Images with index PNG masks and nothing else: ``images/`` and ``masks/``.

The masks are ground truth: they score, and become labels only when the user says so
(``use_masks``). ``classes.csv`` (``id,name``) or the class list given by the user names the
values. Splits come from ``train.txt``, ``val.txt`` and ``test.txt`` (one image per line, with or
without suffix), else from folders of these names inside ``images/``; else all is training data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsseg.data.dataset import SPLITS, Dataset, Sample, Split
from wsseg.data.formats.protocol import Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.split_lists import read_split_lists
from wsseg.data.image_io import read_mask
from wsseg.data.labels import BACKGROUND, IGNORE, ClassList
from wsseg.data.listing import Listing, list_images, shown
from wsseg.data.mask_tags import tags_from_masks
from wsseg.data.problems import Problems
from wsseg.data.tables import read_class_table
from wsseg.errors import DataError

NAME = "index_masks"

_MAX_MASKS_LOOKED_AT = 200


def detect(path: Path) -> Evidence | None:
    """Recognise ``images/`` beside ``masks/`` without ``labels.csv``."""
    if (path / "labels.csv").exists():
        return None
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return Evidence(NAME, "images/ and masks/")
    return None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images and their masks.

    Args:
        path: The folder with ``images/`` and ``masks/``.
        problems: Receives images without mask, masks without image and a missing class list.
        options: What the user said.

    Returns:
        Untagged samples with masks; tagged ones with ``use_masks``.
    """
    root = path.absolute()
    images = list_images(root / "images", problems, root=root, contain=True)
    masks = list_images(root / "masks", problems, root=root, contain=True)
    classes = _class_list(root, masks, problems, options)
    if classes is None:
        return empty_dataset(root, NAME, options)
    splits = read_split_lists(
        {name: root / f"{name}.txt" for name in SPLITS}, images.images, problems, root=root
    )
    samples: tuple[Sample, ...] = tuple(
        Sample(
            id=sample_id,
            image_path=file,
            split=splits[sample_id] if splits else _split_of_folder(sample_id),
            mask_path=masks.images.get(sample_id),
        )
        for sample_id, file in images.images.items()
        if not splits or sample_id in splits
    )
    _report_partners(images, masks, problems, root)
    notes = []
    if splits and len(splits) < len(images.images):
        left = len(images.images) - len(splits)
        notes.append(f"{left} image(s) in none of the split lists left out.")
    if options.use_masks:
        samples = tags_from_masks(samples, classes, problems, root=root)
        notes.append("Tags come from the ground-truth masks (use_masks).")
    return Dataset(root, classes, samples, NAME, tuple(notes))


def _split_of_folder(sample_id: str) -> Split:
    first = sample_id.partition("/")[0]
    return next((name for name in SPLITS if "/" in sample_id and first == name), "train")


def _class_list(
    root: Path, masks: Listing, problems: Problems, options: ReadOptions
) -> ClassList | None:
    path = root / "classes.csv"
    if options.classes is not None:
        return options.classes
    if path.is_file():
        return read_class_table(path, problems, root=root)
    values: set[int] = set()
    for file in list(masks.images.values())[:_MAX_MASKS_LOOKED_AT]:
        try:
            values.update(np.unique(read_mask(file)).tolist())
        except DataError as fault:
            problems.fault(file, fault, root=root)
    found = sorted(values - {BACKGROUND, IGNORE})
    hint = "" if found else " (255 means ignore; save foreground as 1)"
    problems.error(
        "classes.csv",
        f"does not exist, so the mask values {found or sorted(values)} have no names{hint}.",
        'Write it: a line "id,name" and one line per class, e.g. "1,scratch".',
    )
    return None


def _report_partners(images: Listing, masks: Listing, problems: Problems, root: Path) -> None:
    for listing, other, lacks in ((images, masks, "mask"), (masks, images, "image")):
        for sample_id, file in listing.images.items():
            if sample_id not in other.images:
                problems.warning(
                    shown(file, root), f"has no {lacks} of the same name.", "Add or rename it."
                )
