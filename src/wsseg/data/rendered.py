"""Masks that a reader draws from polygons and the like, as files.

Everything after reading takes masks from files. A reader draws them into the folder that it is
given, or into one that goes when the process ends; a run then keeps copies in its own folder. Files
whose content is the same are left as they are, so that their times, and with them the fingerprint
of the data, do not change.
"""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import tempfile
from pathlib import Path

from wsseg.data.dataset import Dataset

_folders: list[Path] = []


def temporary_folder() -> Path:
    """Make a folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="wsseg-masks-"))
    if not _folders:
        atexit.register(_remove_all)
    _folders.append(folder)
    return folder


def with_kept(dataset: Dataset, folder: Path) -> Dataset:
    """Point to the copies that `keep_rendered` makes; masks that lie elsewhere stay there.

    Args:
        dataset: Any data set.
        folder: Where the copies are, or will be.

    Returns:
        The data set with ``folder/ID.png`` for every mask in a temporary folder.
    """
    samples = tuple(
        dataclasses.replace(sample, mask_path=folder.absolute() / f"{sample.id}.png")
        if _is_temporary(sample.mask_path)
        else sample
        for sample in dataset.samples
    )
    return dataclasses.replace(dataset, samples=samples)


def keep_rendered(dataset: Dataset, folder: Path) -> Dataset:
    """Copy masks out of temporary folders.

    Args:
        dataset: Any data set.
        folder: Where to keep them, as ``ID.png``.

    Returns:
        As `with_kept`.

    Raises:
        OutputError: When a copy cannot be written.
    """
    from wsseg.atomic import write_bytes

    kept = with_kept(dataset, folder)
    for before, after in zip(dataset.samples, kept.samples, strict=True):
        source, target = before.mask_path, after.mask_path
        if source is not None and target is not None and source != target:
            content = source.read_bytes()
            if not target.is_file() or target.read_bytes() != content:
                write_bytes(target, content)
    return kept


def _is_temporary(path: Path | None) -> bool:
    return path is not None and any(path.is_relative_to(folder) for folder in _folders)


def _remove_all() -> None:
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
