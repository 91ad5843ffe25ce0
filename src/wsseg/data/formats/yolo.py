"""YOLO: one text file per image, with boxes or polygons in shares of the image.

The format of Darknet (Redmon et al., "You Only Look Once", CVPR 2016) as Ultralytics documents it:
``CLASS CX CY W H`` or ``CLASS X Y X Y X Y ...`` per line, classes counted from 0. Names come from
``data.yaml`` (``names``), ``classes.txt`` or ``obj.names``. The file of ``images/a.jpg`` is
``labels/a.txt``, or lies beside the image. Splits come from ``train``, ``val`` and ``test`` in
``data.yaml`` (folders or lists of images), else from folders of these names. An empty file means
"no class"; an image without file is not labelled, because nobody can tell a forgotten image from
an empty one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wsseg.data.dataset import Dataset, Split
from wsseg.data.formats.assemble import Reading, assemble, class_list, unlabelled
from wsseg.data.formats.drawn import Annotated, Drawn, UnusableError, parse_each
from wsseg.data.formats.measures import number
from wsseg.data.formats.protocol import SPLIT_NAMES, Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.sources import ImageFiles, holds, own_files, split_of_folders
from wsseg.data.listing import shown
from wsseg.data.problems import Problems

NAME = "yolo"

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_SHARE_LIMITS = (-0.5, 1.5)


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by a YAML file with names, or a list of names beside label files."""
    files = _yaml_files(path, Problems())
    if files:
        return Evidence(NAME, shown(files[0], path))
    names = next((name for name in _NAME_FILES if (path / name).is_file()), None)
    has_labels = (path / "labels").is_dir() or any(
        file.name != "classes.txt" for file in path.glob("*.txt")
    )
    return Evidence(NAME, f"{names} and label files") if names and has_labels else None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, boxes, masks and splits.

    Args:
        path: The data folder.
        problems: Receives malformed lines, unknown classes and images without label file.
        options: What the user said.

    Returns:
        The samples without errors; untagged where there is no label file.
    """
    root = path.absolute()
    reading = Reading(root, NAME, problems, options)
    yaml_files = _yaml_files(root, problems)
    settings = _settings(yaml_files[0], problems, root) if yaml_files else {}
    file = shown(yaml_files[0], root) if yaml_files else "classes.txt"
    names = _names(settings, root, file, problems)
    if names is None:
        return empty_dataset(root, NAME, options)
    classes = class_list(reading, names, file, fixed=True)
    if classes is None:
        return empty_dataset(root, NAME, options)
    images = ImageFiles(root, problems)
    texts = {shown(one, root): one for one in own_files(root, ("**/*.txt",), problems)}
    splits = _splits(settings, file, images, texts, problems)
    if splits is not None:
        left = len(images.listing.images) - len(splits)
        reading.notes += [f"{left} image(s) in no split of {file} left out."] if left else []
    items = list(_items(images, texts, splits, names, problems))
    unlabelled(reading, items, "an empty label file")
    return assemble(reading, items, classes)


def _yaml_files(root: Path, problems: Problems) -> list[Path]:
    files = own_files(root, ("*.yaml", "*.yml"), problems)
    return [file for file in files if holds(file, rb"(?m)^names\s*:")]


def _settings(path: Path, problems: Problems, root: Path) -> dict[str, Any]:
    import yaml

    file = shown(path, root)
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as fault:
        problems.error(file, f"cannot be read as YAML ({fault}).", "Correct it.")
        return {}
    return content if isinstance(content, dict) else {}


def _names(settings: dict[str, Any], root: Path, file: str, problems: Problems) -> list[str] | None:
    """Read the class names in the order of their numbers."""
    names = settings.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            problems.error(
                file, f"names has the numbers {list(names)[:20]}.", "Number them from 0, no gaps."
            )
            return None
        names = [names[index] for index in range(len(names))]
    if names is None:
        path = next((root / name for name in _NAME_FILES if (root / name).is_file()), None)
        text = path.read_text("utf-8-sig", errors="replace") if path else ""
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(names, list) or not names:
        problems.error(
            file, "has no list of names.", 'Write "names: [scratch, dent]" into data.yaml.'
        )
        return None
    return [str(name) for name in names]


def _splits(
    settings: dict[str, Any],
    file: str,
    images: ImageFiles,
    texts: dict[str, Path],
    problems: Problems,
) -> dict[str, Split] | None:
    """Tell which split each image is in; None where ``data.yaml`` does not say."""
    found: dict[str, Split] = {}
    keys = [key for key in settings if key in SPLIT_NAMES and settings[key]]
    for key in keys:
        entries = settings[key] if isinstance(settings[key], list) else [settings[key]]
        for entry in entries:
            members = _members(str(entry), images, texts, problems)
            if members is None:
                problems.error(
                    file,
                    f'{key}: "{entry}" is neither a folder with images nor a list in the data '
                    "folder.",
                    "Correct the path; it must lie inside of the data folder.",
                )
                continue
            for sample_id in members:
                before = found.setdefault(sample_id, SPLIT_NAMES[key])
                if before != SPLIT_NAMES[key]:
                    problems.error(
                        f"{file}: image {sample_id}",
                        f"is in {before} and in {key}; it would be trained on and scored.",
                        "Remove it from one of them.",
                    )
    return found if keys else None


def _members(
    entry: str, images: ImageFiles, texts: dict[str, Path], problems: Problems
) -> list[str] | None:
    """List the images of a folder or a text file, wherever it lies in the data folder."""
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    parts = tuple(part for part in parts if part not in ("/", ".", ".."))
    paths = {shown(path, images.root): key for key, path in images.listing.images.items()}
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if end in texts:
            return _listed(texts[end], images, problems)
        inside = [key for path, key in paths.items() if path.startswith(f"{end}/")]
        if inside:
            return inside
    return sorted(paths.values()) if not parts else None


def _listed(path: Path, images: ImageFiles, problems: Problems) -> list[str]:
    """Read a list of images, one per line."""
    found = []
    for line, text in enumerate(path.read_text("utf-8-sig", errors="replace").split("\n"), 1):
        name = text.strip()
        if not name:
            continue
        sample_id, fault = (
            images.find_by_end(name) if name.startswith("/") else images.find(name, [path.parent])
        )
        if sample_id is None:
            file = f"{shown(path, images.root)} line {line}"
            problems.error(file, fault, "Correct or remove the line.")
        else:
            found.append(sample_id)
    return found


def _items(
    images: ImageFiles,
    texts: dict[str, Path],
    splits: dict[str, Split] | None,
    names: Sequence[str],
    problems: Problems,
) -> Iterator[Annotated]:
    for sample_id, path in images.listing.images.items():
        if splits is not None and sample_id not in splits:
            continue
        split = splits[sample_id] if splits is not None else split_of_folders(path, images.root)
        label = _label_file(path, images, texts)
        if label is None:
            yield Annotated("labels", sample_id, path, None, split)
            continue
        file = shown(label, images.root)
        lines = _lines(label, file, problems)

        def parse(where: str, line: str) -> Drawn:
            return _drawn(where, line, names)

        drawn = None if lines is None else parse_each(lines, parse, file, problems)
        if drawn is not None:
            yield Annotated(file, sample_id, path, drawn, split, in_shares=True)


def _label_file(path: Path, images: ImageFiles, texts: dict[str, Path]) -> Path | None:
    """Find the label file of an image among the text files of the data folder."""
    relative = PurePosixPath(shown(path, images.root)).with_suffix(".txt")
    parts = list(relative.parts)
    candidates = [relative.as_posix(), f"labels/{relative.as_posix()}"]
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            candidates.insert(0, "/".join([*parts[:at], "labels", *parts[at + 1 :]]))
            break
    return next((texts[name] for name in candidates if name in texts), None)


def _lines(path: Path, file: str, problems: Problems) -> list[tuple[str, str]] | None:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        problems.error(file, f"cannot be read as UTF-8 ({fault}).", "Save it as UTF-8.")
        return None
    lines = enumerate(text.splitlines(), start=1)
    return [(f"line {index}", line) for index, line in lines if line.strip()]


def _drawn(where: str, line: str, names: Sequence[str]) -> Drawn:
    """Read one line."""
    cells = line.split()
    if not cells[0].isdecimal() or int(cells[0]) >= len(names):
        raise UnusableError(
            f'class "{cells[0]}" is not a number from 0 to {len(names) - 1}.', "Correct it."
        )
    name = names[int(cells[0])]
    values = [number(cell) for cell in cells[1:]]
    if any(value is None for value in values):
        raise UnusableError(f'"{line.strip()[:60]}" holds what is no number.', "Correct it.")
    shares = np.array(values, np.float64)
    if len(shares) < 4 or len(shares) % 2:
        hint = " A sixth is a confidence; remove it." if len(shares) == 5 else ""
        raise UnusableError(
            f"has {len(shares)} numbers after the class; expected 4 (box) or an even number from 6 "
            f"(polygon).{hint}",
            "Correct the line.",
        )
    if shares.min() < _SHARE_LIMITS[0] or shares.max() > _SHARE_LIMITS[1]:
        raise UnusableError(
            f"has numbers from {shares.min():g} to {shares.max():g}; expected shares of width and "
            "height, 0 to 1. They look like pixels.",
            "Divide x by the width and y by the height of the image.",
        )
    if len(shares) == 4:
        centre, extent = shares.reshape(2, 2)
        return Drawn(name, "box", where, xy=np.stack([centre - extent / 2, centre + extent / 2]))
    return Drawn(name, "polygon", where, rings=(shares.reshape(-1, 2),))
