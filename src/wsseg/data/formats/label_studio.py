"""Label Studio: a JSON export with a list of tasks.

Results: rectangles, polygons and ellipses (in percent of the image), brush strokes (run lengths in
Label Studio's own bits), key points, open polygons (scribbles) and choices (tags). Only
``annotations`` count, not ``predictions``; of several the one marked as ground truth, else the
first that was not skipped. The image is found by the end of the path or address in ``data``, in
the data folder only: nothing is fetched. ``split`` and ``group`` in ``data`` are taken over. An
annotation without result means "no class"; a task without annotation is not labelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from wsseg.data.dataset import Dataset
from wsseg.data.formats.assemble import Reading, assemble, class_list
from wsseg.data.formats.drawn import Annotated, parse_each
from wsseg.data.formats.label_studio_result import LabelledResult, labelled, parse_result
from wsseg.data.formats.measures import stated_size
from wsseg.data.formats.protocol import SPLIT_NAMES, Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.sources import ImageFiles, holds, own_files, read_json
from wsseg.data.image_io import IMAGE_SUFFIXES
from wsseg.data.listing import shown
from wsseg.data.problems import Problems

NAME = "label_studio"

_SIGNS = (rb"\A(?:\xef\xbb\xbf)?\s*\[", rb'"data"\s*:', rb'"(annotations|completions)"\s*:')
# What Label Studio puts before the names of files that are uploaded to it.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class _Task:
    """One task: where it stands, its data, and the results that count; None: not labelled."""

    file: str
    data: dict[str, Any]
    results: tuple[LabelledResult, ...] | None


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by a JSON file with a list of tasks."""
    found = [shown(file, path) for file in _find(path, Problems())]
    return Evidence(NAME, f"Label Studio tasks in {', '.join(found[:3])}") if found else None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, boxes, points, scribbles, masks, splits and groups.

    Args:
        path: The data folder.
        problems: Receives malformed tasks and results, and images that are not there.
        options: What the user said.

    Returns:
        The samples without errors; untagged where a task has no annotation.
    """
    root = path.absolute()
    reading = Reading(root, NAME, problems, options)
    files = _find(root, problems)
    tasks = [task for file in files for task in _tasks(file, reading)]
    names = {one.name for task in tasks for one in task.results or () if one.name}
    classes = class_list(reading, sorted(names), shown(files[0], root) if files else "the export")
    if classes is None or not files:
        return empty_dataset(root, NAME, options)
    bare = sum(task.results is None for task in tasks)
    if bare:
        reading.notes.append(f"{bare} task(s) without annotation count as not labelled.")
    images = ImageFiles(root, problems)
    return assemble(reading, _items(tasks, images, problems), classes)


def _find(root: Path, problems: Problems) -> list[Path]:
    return [path for path in own_files(root, ("*.json",), problems) if holds(path, *_SIGNS)]


def _tasks(path: Path, reading: Reading) -> Iterator[_Task]:
    """Parse the tasks of a file."""
    name = shown(path, reading.root)
    content = read_json(path, reading.problems, root=reading.root)
    if not isinstance(content, list):
        return
    several = 0
    for index, task in enumerate(content, start=1):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            reading.problems.error(
                f"{name}: task {index}", "is not an object with data.", 'Export as "JSON".'
            )
            continue
        entries = task.get("annotations", task.get("completions"))
        done = [
            entry
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict)
            and not entry.get("was_cancelled")
            and isinstance(entry.get("result"), list)
        ]
        several += len(done) > 1
        done.sort(key=lambda entry: entry.get("ground_truth") is not True)
        results = labelled(done[0]["result"]) if done else None
        yield _Task(f"{name}: task {task.get('id', index)}", task["data"], results)
    if several:
        reading.notes.append(
            f"{name}: {several} task(s) have several annotations; the ground truth, else the first "
            "is used."
        )


def _items(tasks: list[_Task], images: ImageFiles, problems: Problems) -> Iterator[Annotated]:
    for task in tasks:
        address = _address(task.data)
        sample_id, fault = _look_up(address, images)
        if sample_id is None:
            problems.error(
                task.file,
                f"data: {fault}",
                "Put the image into the data folder, under the name that the task gives it.",
            )
            continue
        drawn = None
        if task.results is not None:
            entries = ((one.where, one) for one in task.results)
            drawn = parse_each(entries, parse_result, f"{task.file}, image {sample_id}", problems)
            if drawn is None:
                continue
        group = task.data.get("group")
        yield Annotated(
            task.file,
            sample_id,
            images.path(sample_id),
            drawn,
            SPLIT_NAMES.get(str(task.data.get("split", "")).casefold(), "train"),
            group if isinstance(group, str) and group else None,
            _brush_size(task.results or ()),
            in_shares=True,
        )


def _brush_size(results: tuple[LabelledResult, ...]) -> tuple[int, int] | None:
    """The size that brush strokes were made for; percentages fit any size."""
    brushed = (one.result for one in results if one.kind == "brush")
    sizes = (stated_size(r.get("original_height"), r.get("original_width")) for r in brushed)
    return next(sizes, None)


def _address(data: dict[str, Any]) -> str:
    """Find the path or address of the image among the data of a task."""
    texts = [value for value in data.values() if isinstance(value, str)]
    for text in texts:
        if PurePosixPath(_path_of(text)).suffix.lower() in IMAGE_SUFFIXES:
            return text
    image = data.get("image")
    return image if isinstance(image, str) else ""


def _path_of(address: str) -> str:
    r"""Take the path out of an address.

    Example:
        >>> _path_of("/data/local-files/?d=parts/a%20b.png"), _path_of("s3://bucket/x/a.png?v=1")
        ('parts/a b.png', 'x/a.png')
    """
    try:
        parts = urlsplit(address.strip().replace("\\", "/"))
        local = parse_qs(parts.query).get("d")
    except ValueError:
        return ""
    return (local[0] if local else unquote(parts.path)).lstrip("/")


def _look_up(address: str, images: ImageFiles) -> tuple[str | None, str]:
    """Find the image of a task by the end of its path."""
    path = _path_of(address)
    if not path:
        return None, "there is no path of an image."
    if ".." in PurePosixPath(path).parts:
        return None, f'"{address}" climbs out of the data folder.'
    sample_id, fault = images.find_by_end(path)
    last = PurePosixPath(path)
    if sample_id is None and _UPLOAD_PREFIX.match(last.name):
        plain = last.with_name(_UPLOAD_PREFIX.sub("", last.name)).as_posix()
        sample_id, _ = images.find_by_end(plain)
    return sample_id, fault
