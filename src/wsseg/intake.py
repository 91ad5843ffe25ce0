"""What of a data set can be used: read it, name all that is wrong, leave that out.

Everything is looked at once before anything is trained, so that a damaged file is named in the
first minute and not in the middle of the night.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from wsseg import console
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.problems import Problem, Problems
from wsseg.errors import MAX_PROBLEMS_SHOWN, DataError, OutputError
from wsseg.rundir import RunDir, StageDir


def open_data(
    path: Path,
    *,
    use_masks: bool = False,
    strict: bool = False,
    classes: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002 - the word the command line uses
) -> tuple[Dataset, dict[str, str]]:
    """Read a data folder and say everything that is wrong with it.

    Args:
        path: The data folder.
        use_masks: Whether untagged images get tags from their ground-truth masks.
        strict: Stop at any error, instead of leaving those images out.
        classes: Class names in the order of their ids, where the folder does not fix them.
        format: Name of the format, where several fit.

    Returns:
        The samples without errors; and the errors as ``{file: what and remedy}``.

    Raises:
        DataError: When the format cannot be told, no image is left, or there is an error and
            ``strict`` is set.
    """
    from wsseg.data.discover import read_dataset, without_errors

    dataset, problems = read_dataset(path, classes=classes, use_masks=use_masks, format=format)
    for note in dataset.notes:
        console.info(note)
    dataset = without_errors(dataset, problems, path, strict=strict)
    _say(problems)
    return dataset, {problem.file: str(problem) for problem in problems.errors}


def _say(problems: Problems) -> None:
    """Warn of the first errors and of the first doubtful things, each with file and remedy."""
    groups: tuple[tuple[str, tuple[Problem, ...]], ...] = (
        ("errors", problems.errors),
        ("warnings", problems.warnings),
    )
    for name, found in groups:
        for problem in found[:MAX_PROBLEMS_SHOWN]:
            console.warning(str(problem))
        hidden = len(found) - MAX_PROBLEMS_SHOWN
        if hidden > 0:
            console.warning(f"... and {hidden} more {name}; `wsseg data check` lists all.")


def readable(dataset: Dataset, stage: StageDir) -> Dataset:
    """Decode every image once.

    Args:
        dataset: The data set.
        stage: Where the outcome is kept; images found sound before are not read again.

    Returns:
        The data set without the images that cannot be read.

    Raises:
        DataError: When no image can be read.
    """
    from wsseg.data.image_io import read_image

    if not stage.begin():
        stage.for_each(
            dataset.samples,
            lambda sample: {"size": list(read_image(sample.image_path).shape[:2])},
            title="check images",
        )
        stage.finish(seconds=stage.seconds())
    kept = stage.usable(dataset.samples)
    if not kept:
        raise DataError("No image can be read:", list(stage.failures().values()))
    return dataclasses.replace(dataset, samples=tuple(kept))


def with_sound_masks(dataset: Dataset, stage: StageDir) -> Dataset:
    """Check every ground-truth mask once, before anything is scored (or tuned) with it.

    Args:
        dataset: The data set; its images can be read.
        stage: Where the outcome is kept.

    Returns:
        The data set; images whose mask has wrong values or a wrong size have none.
    """
    masked = [sample for sample in dataset.samples if sample.mask_path is not None]
    if not stage.begin():
        stage.for_each(masked, lambda sample: _check_mask(sample, dataset), title="check masks")
        stage.finish(seconds=stage.seconds())
    sound = {sample.id for sample in stage.usable(masked)}
    return dataclasses.replace(
        dataset,
        samples=tuple(
            sample if sample.id in sound else dataclasses.replace(sample, mask_path=None)
            for sample in dataset.samples
        ),
    )


def _check_mask(sample: Sample, dataset: Dataset) -> None:
    from wsseg.data.image_io import image_size, read_mask

    if sample.mask_path is None:
        return
    mask = read_mask(sample.mask_path, dataset.classes)
    size = image_size(sample.image_path)
    if mask.shape != size:
        raise DataError(
            f"{sample.mask_path}: the mask is {mask.shape[1]} x {mask.shape[0]} px (width x "
            f"height), but its image {sample.image_path} is {size[1]} x {size[0]} px. Make the "
            "mask again, with the size and orientation of the upright image."
        )


def refuse_foreign(folder: RunDir, dataset: Dataset) -> None:
    """Keep a run's results from being replaced by those of other data by mistake.

    Raises:
        OutputError: When the folder holds a run on another data folder.
    """
    if not folder.samples_path.exists():
        return
    before = Dataset.from_jsonl(folder.samples_path).root.resolve()
    if before != dataset.root.resolve():
        raise OutputError(
            f"{folder.path} holds a run on other data ({before}). Choose another folder with "
            "--out, or remove this one."
        )
