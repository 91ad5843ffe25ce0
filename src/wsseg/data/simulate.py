"""Make weak labels from ground-truth masks, to try methods on sets that have masks only.

Every image has its own random numbers, drawn from the seed, its id and the kind of label: the order
of the images, the other images and the other kinds asked for do not change its labels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from wsseg.config import Config
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import WeakLabels
from wsseg.data.mask_labels import (
    Instances,
    Mask,
    Placement,
    boxes_from_mask,
    points_from_mask,
    tags_from_mask,
)
from wsseg.data.mask_scribbles import ScribbleStyle, scribbles_from_mask
from wsseg.errors import DataError, OutputError, unknown_name

LabelKind = Literal["tags", "boxes", "points", "scribbles"]
KINDS: tuple[LabelKind, ...] = get_args(LabelKind)


class Simulate(Config):
    """How weak labels are made from masks."""

    kinds: tuple[LabelKind, ...] = Field(
        KINDS, min_length=1, description="Kinds of label to make: tags, boxes, points, scribbles."
    )
    seed: int = Field(0, ge=0, description="Seed of everything random.")
    min_tag_area_frac: float = Field(
        0.0, ge=0, lt=1, description="Share of the image that a class must cover to be tagged."
    )
    min_object_area_px: int = Field(
        4, ge=1, description="Pixels that an object must have to get a box, points or a scribble."
    )
    box_jitter_frac: float = Field(
        0.0,
        ge=0,
        le=0.45,
        description="Largest shift of each side of a box, as a share of its width or height.",
    )
    point_placement: Placement = Field(
        "centre", description="Points near the centre of an object, or at random in it."
    )
    points_per_object: int = Field(1, ge=1, description="Number of points in each object.")
    max_points_per_class: int | None = Field(
        None, ge=1, description="Largest number of points per class and image; null: no limit."
    )
    scribble_style: ScribbleStyle = Field(
        "skeleton", description="Scribbles along the skeleton of an object, or as Bézier curves."
    )
    scribble_length_frac: float = Field(
        0.6, gt=0, le=1, description="Share of the longest path through an object that is drawn."
    )
    background_scribbles: int = Field(
        1, ge=0, description="Number of scribbles on the background of each image."
    )


@dataclass(frozen=True)
class SimulateSummary:
    """What was made.

    Args:
        images: Number of images with simulated labels.
        without_mask: Number of images that had no mask and were left out.
        counts: Kind of label → number of labels.
        out_dir: The folder written.
    """

    images: int
    without_mask: int
    counts: Mapping[str, int]
    out_dir: Path

    def as_dict(self) -> dict[str, object]:
        """Return everything as JSON-able values."""
        return {
            "images": self.images,
            "without_mask": self.without_mask,
            "counts": dict(self.counts),
            "out": str(self.out_dir),
        }

    def text(self) -> str:
        """Format the counts, the folder and the next command."""
        made = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        lines = [f"Wrote {self.images} images with {made} to {self.out_dir}"]
        if self.without_mask:
            lines.append(f"note: {self.without_mask} images without a mask were left out")
        lines.append(f"Next: wsseg run {self.out_dir}")
        return "\n".join(lines)


def sample_rng(seed: int, sample_id: str, kind: str) -> np.random.Generator:
    """Make the random numbers of one image and one kind of label.

    Args:
        seed: Seed from 0.
        sample_id: Id of the sample.
        kind: Any word; different words give independent numbers.

    Example:
        >>> first = sample_rng(0, "a/b", "points").random()
        >>> first == sample_rng(0, "a/b", "points").random()
        True
    """
    digest = hashlib.sha256(f"{kind}\0{sample_id}".encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, ">u4").tolist()])


def simulate_labels(
    mask: Mask,
    sample_id: str,
    config: Simulate | None = None,
    *,
    instances: Instances | None = None,
) -> WeakLabels:
    """Make the weak labels of one image.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignore.
        sample_id: Id of the sample; together with the seed it decides all that is random.
        config: What to make and how.
        instances: (H, W) object numbers, 0 = none; without, connected pixels of one class are one
            object.

    Returns:
        The kinds asked for; the others are None.

    Example:
        >>> mask = np.zeros((6, 6), np.uint8)
        >>> mask[1:4, 2:5] = 3
        >>> labels = simulate_labels(mask, "a")
        >>> labels.tags, labels.boxes.xyxy.tolist()
        (frozenset({3}), [[2.0, 1.0, 5.0, 4.0]])
    """
    config = config or Simulate()
    kinds, least = config.kinds, config.min_object_area_px

    def rng(kind: str) -> np.random.Generator:
        return sample_rng(config.seed, sample_id, kind)

    min_tag_px = max(1, int(np.ceil(config.min_tag_area_frac * mask.size)))
    return WeakLabels(
        tags=tags_from_mask(mask, min_area_px=min_tag_px) if "tags" in kinds else None,
        boxes=boxes_from_mask(
            mask,
            rng=rng("boxes"),
            jitter_frac=config.box_jitter_frac,
            instances=instances,
            min_area_px=least,
        )
        if "boxes" in kinds
        else None,
        points=points_from_mask(
            mask,
            rng=rng("points"),
            placement=config.point_placement,
            per_object=config.points_per_object,
            per_class=config.max_points_per_class,
            instances=instances,
            min_area_px=least,
        )
        if "points" in kinds
        else None,
        scribbles=scribbles_from_mask(
            mask,
            rng=rng("scribbles"),
            style=config.scribble_style,
            length_frac=config.scribble_length_frac,
            num_background=config.background_scribbles,
            instances=instances,
            min_area_px=least,
        )
        if "scribbles" in kinds
        else None,
    )


def simulate_sample(sample: Sample, dataset: Dataset, config: Simulate) -> Sample:
    """Replace the labels of one sample by simulated ones, from its mask.

    An instance map ``instances/ID.png`` in the data folder separates touching objects.

    Raises:
        DataError: The mask or the instance map cannot be used.
    """
    from wsseg.data.image_io import read_mask

    if sample.mask_path is None:
        raise DataError(f'Sample "{sample.id}" has no mask to make weak labels from.')
    mask = read_mask(sample.mask_path, dataset.classes)
    instances = _read_instances(dataset.root / "instances" / f"{sample.id}.png", mask)
    return replace(sample, labels=simulate_labels(mask, sample.id, config, instances=instances))


def simulate_dataset(dataset: Dataset, config: Simulate | None = None) -> Dataset:
    """Replace the labels of every sample that has a mask; samples without one are left out.

    Args:
        dataset: Samples with masks.
        config: What to make and how.

    Returns:
        The samples with simulated labels, in the same order, with a note that says so.

    Raises:
        DataError: No sample has a mask, or a mask cannot be used.
    """
    from wsseg import console

    config = config or Simulate()
    with_mask = [sample for sample in dataset.samples if sample.mask_path is not None]
    if not with_mask:
        raise DataError(
            f"{dataset.root}: no image has a mask, so there is nothing to make weak labels from. "
            "Put index PNGs into masks/, with the names of the images."
        )
    samples = []
    with console.progress(len(with_mask), "Simulating weak labels") as bar:
        for sample in with_mask:
            samples.append(simulate_sample(sample, dataset, config))
            bar.advance()
    note = f"{', '.join(config.kinds)} simulated from masks with seed {config.seed}."
    return replace(dataset, samples=tuple(samples), notes=(*dataset.notes, note))


def simulate_folder(
    data: Path, out_dir: Path, *, kinds: Sequence[str] = KINDS, seed: int = 0
) -> SimulateSummary:
    """Write a copy of a data folder with weak labels made from its masks.

    Args:
        data: Folder in any layout that wsseg reads, with masks.
        out_dir: Folder to write: images, masks and one file per kind of label.
        kinds: Any of "tags", "boxes", "points", "scribbles".
        seed: Seed of everything random.

    Returns:
        What was made.

    Raises:
        DataError: A kind is unknown, or the data cannot be used.
        OutputError: ``out_dir`` holds labels already, or cannot be written.
    """
    from wsseg.data.discover import open_dataset
    from wsseg.data.formats.labels_csv_write import write_labels_csv
    from wsseg.data.shape_files import write_shapes

    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise DataError(unknown_name("kind of label", unknown[0] if unknown else "", KINDS))
    if (out_dir / "labels.csv").exists():
        raise OutputError(f"{out_dir} has a labels.csv already; write to a new folder.")
    config = Simulate(kinds=tuple(kind for kind in KINDS if kind in kinds), seed=seed)
    dataset = open_dataset(data)
    made = simulate_dataset(dataset, config)
    # labels.csv comes last: where it exists, the folder is complete.
    write_shapes(made, out_dir)
    write_labels_csv(made, out_dir)
    return SimulateSummary(
        images=len(made),
        without_mask=len(dataset) - len(made),
        counts=_count(made, config.kinds),
        out_dir=out_dir,
    )


def _count(dataset: Dataset, kinds: Sequence[LabelKind]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for sample in dataset.samples:
        for kind in kinds:
            totals[kind] += len(getattr(sample.labels, kind) or ())
    return {kind: totals[kind] for kind in kinds}


def _read_instances(path: Path, mask: Mask) -> Instances | None:
    """Read an instance map of up to 16 bits; None where there is none."""
    if not path.is_file():
        return None
    from PIL import Image

    try:
        with Image.open(path) as picture:
            instances = np.asarray(picture).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as fault:
        raise DataError(
            f"{path}: the instance map is damaged ({fault}). Copy it again or remove it."
        ) from fault
    if instances.shape != mask.shape:
        raise DataError(
            f"{path}: the instance map has shape {instances.shape}, but the mask has {mask.shape}. "
            "Write one number per pixel, at the size of the mask."
        )
    return instances
