"""What a check finds in single files, and in pairs of files with the same pixels."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.findings import Finding
from wsseg.data.image_io import image_size, read_image, read_mask
from wsseg.data.labels import IGNORE, ClassList
from wsseg.errors import DataError

SMALL_SIDE_PX = 32
LARGE_SIDE_PX = 8192
LONG_ASPECT = 10.0
_MAX_VALUES_SHOWN = 8


@dataclass(frozen=True)
class FileFacts:
    """What is kept of one sample's files.

    Args:
        sample_id: Id of the sample.
        size: Height and width of the image, None where it cannot be read.
        digest: Digest of size and pixels, None where they were not decoded.
        is_flat: Whether all pixels are equal.
        image_fault: Why the image cannot be read, or "".
        mask_size: Height and width of the mask, None where there is none or it cannot be read.
        mask_values: Mask value → number of pixels.
        mask_fault: Why the mask cannot be read, or "".
    """

    sample_id: str
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    is_flat: bool = False
    image_fault: str = ""
    mask_size: tuple[int, int] | None = None
    mask_values: Mapping[int, int] = field(default_factory=dict)
    mask_fault: str = ""


def look_at(sample: Sample, *, deep: bool) -> FileFacts:
    """Read the image and the mask of a sample and keep a few facts.

    Args:
        sample: The sample.
        deep: Decode the pixels; otherwise only the headers are read.

    Returns:
        The facts; faults are kept as text, nothing is raised for a bad file.
    """
    size, digest, is_flat, image_fault = None, None, False, ""
    try:
        if deep:
            image = read_image(sample.image_path)
            size = image.shape[0], image.shape[1]
            hasher = hashlib.blake2b(repr(size).encode(), digest_size=16)
            hasher.update(image.data)
            digest, is_flat = hasher.digest(), bool((image == image[0, 0]).all())
        else:
            size = image_size(sample.image_path)
    except DataError as fault:
        image_fault = str(fault).removeprefix(f"{sample.image_path}: ")
    mask_size, mask_values, mask_fault = None, {}, ""
    if sample.mask_path is not None:
        try:
            if deep:
                mask = read_mask(sample.mask_path)
                mask_size = mask.shape[0], mask.shape[1]
                areas = np.bincount(mask.ravel(), minlength=256)
                mask_values = {int(value): int(areas[value]) for value in np.flatnonzero(areas)}
            else:
                mask_size = image_size(sample.mask_path)
        except DataError as fault:
            mask_fault = str(fault).removeprefix(f"{sample.mask_path}: ")
    return FileFacts(
        sample.id, size, digest, is_flat, image_fault, mask_size, mask_values, mask_fault
    )


def findings_of_files(dataset: Dataset, facts: Sequence[FileFacts]) -> list[Finding]:
    """Turn the facts of all samples, in their order, into findings."""
    found: list[Finding] = []
    for sample, fact in zip(dataset.samples, facts, strict=True):
        image = shown_path(sample.image_path, dataset)
        found += _image_findings(image, fact)
        if sample.mask_path is not None:
            mask = shown_path(sample.mask_path, dataset)
            found += _mask_findings(mask, fact, dataset.classes)
    found += _copies(dataset, facts)
    found += _case_clashes(dataset)
    return found


def shown_path(path: Path, dataset: Dataset) -> str:
    """Name a file relative to the data folder where it lies inside."""
    return (
        path.relative_to(dataset.root).as_posix()
        if path.is_relative_to(dataset.root)
        else str(path)
    )


def _split_fault(fault: str) -> tuple[str, str]:
    """Separate the last sentence of a fault, which is the remedy."""
    what, stop, remedy = fault.rpartition(". ")
    return (what + stop.strip(), remedy) if stop else (fault, "Copy the file again or remove it.")


def _image_findings(file: str, fact: FileFacts) -> Iterator[Finding]:
    """Judge one image: readable, not flat, of a useful size."""
    if fact.size is None:
        what, remedy = _split_fault(fact.image_fault)
        yield Finding("unreadable_image", "error", file, what, remedy)
        return
    height, width = fact.size
    shorter, longer = min(fact.size), max(fact.size)
    if shorter == 1:
        yield Finding(
            "one_pixel",
            "warning",
            file,
            f"is {width}x{height} pixels, a line or a single pixel.",
            "Remove it; it is probably a failed export.",
        )
    elif shorter < SMALL_SIDE_PX:
        yield Finding(
            "small_image",
            "warning",
            file,
            f"is {width}x{height} pixels; networks shrink images to 1/16 or 1/32.",
            "Use a larger original, or remove it.",
        )
    if longer > LARGE_SIDE_PX:
        yield Finding(
            "large_image",
            "info",
            file,
            f"is {width}x{height} pixels.",
            "Set tiling or a largest side in the recipe, so that small things are not lost.",
        )
    if longer > LONG_ASPECT * shorter > LONG_ASPECT:
        yield Finding(
            "long_image",
            "info",
            file,
            f"is {width}x{height} pixels, {longer / shorter:.0f} times as long as wide.",
            "Square crops see little of it; consider to cut it into pieces.",
        )
    if fact.is_flat and shorter > 1:
        yield Finding(
            "flat_image",
            "warning",
            file,
            "has the same colour everywhere.",
            "Remove it; it is probably a failed export.",
        )


def _mask_findings(file: str, fact: FileFacts, classes: ClassList) -> Iterator[Finding]:
    """Judge one mask: readable, of the image's size, with known values."""
    if fact.mask_fault:
        what, remedy = _split_fault(fact.mask_fault)
        yield Finding("unreadable_mask", "error", file, what, remedy)
        return
    if fact.mask_size is not None and fact.size is not None and fact.mask_size != fact.size:
        (mask_height, mask_width), (height, width) = fact.mask_size, fact.size
        turned = fact.mask_size == fact.size[::-1]
        yield Finding(
            "mask_size",
            "error",
            file,
            f"is {mask_width}x{mask_height} pixels, but the upright image is {width}x{height}.",
            "Turn the mask as the EXIF orientation of the image says."
            if turned
            else "Export the mask again at the size of the image, without smoothing.",
        )
    outside = [
        value for value in fact.mask_values if value > classes.num_classes and value != IGNORE
    ]
    if outside:
        total = sum(fact.mask_values.values())
        histogram = ", ".join(
            f"{value}: {fact.mask_values[value] / total:.2%}"
            for value in outside[:_MAX_VALUES_SHOWN]
        )
        more = f" and {len(outside) - _MAX_VALUES_SHOWN} more" if len(outside) > 8 else ""
        yield Finding(
            "mask_values",
            "error",
            file,
            f"has values outside the class list (value: share of pixels): {histogram}{more}; "
            f"expected 0 to {classes.num_classes} and {IGNORE}.",
            _value_remedy(outside),
        )
    if set(fact.mask_values) == {IGNORE}:
        yield Finding(
            "mask_ignored",
            "warning",
            file,
            f"is {IGNORE} (ignore) everywhere.",
            "Remove the mask, or paint it.",
        )


def _value_remedy(outside: Sequence[int]) -> str:
    """Guess from the values how the mask was made."""
    if len(outside) > 20:
        return "It looks like a smoothed or photographic picture: export class ids, as PNG."
    return "Save class ids instead of grey levels or colours, or add classes to classes.csv."


def _copies(dataset: Dataset, facts: Sequence[FileFacts]) -> Iterator[Finding]:
    """Find images with the same pixels: a leak between splits, or a plain copy."""
    by_digest: dict[bytes, list[Sample]] = defaultdict(list)
    for sample, fact in zip(dataset.samples, facts, strict=True):
        if fact.digest is not None and not fact.is_flat:
            by_digest[fact.digest].append(sample)
    for samples in by_digest.values():
        first = samples[0]
        for other in samples[1:]:
            name = shown_path(first.image_path, dataset)
            file = shown_path(other.image_path, dataset)
            if "train" in (first.split, other.split) and first.split != other.split:
                yield Finding(
                    "leak",
                    "error",
                    file,
                    f"({other.split}) has the same pixels as {name} ({first.split}); scores "
                    f"would be too good.",
                    "Remove one of them, or put both into one split.",
                )
                continue
            labels = " with other labels" if first.labels != other.labels else ""
            yield Finding(
                "duplicate",
                "warning",
                file,
                f"has the same pixels as {name}{labels}.",
                "Correct the labels and remove one of them." if labels else "Remove one of them.",
            )


def _case_clashes(dataset: Dataset) -> Iterator[Finding]:
    """Find ids that differ in letter case only: their masks overwrite each other on some disks."""
    counts = Counter(sample.id.casefold() for sample in dataset.samples)
    for sample in dataset.samples:
        if counts[sample.id.casefold()] > 1:
            yield Finding(
                "case_clash",
                "warning",
                shown_path(sample.image_path, dataset),
                "differs from another image in letter case only; Windows and macOS take the "
                "masks of both for one file.",
                "Rename it.",
            )
