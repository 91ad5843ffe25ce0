"""Text files that list the images of a split, one per line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from wsseg.data.dataset import Split
from wsseg.data.image_io import IMAGE_SUFFIXES
from wsseg.data.listing import shown
from wsseg.data.problems import Problems

# An image that two lists name goes where it is not trained on.
_FIRST_TO_COUNT: tuple[Split, ...] = ("test", "val", "train")
_PRESENCE_FLAGS = frozenset({"-1", "0", "1"})


def read_split_lists(
    paths: Mapping[Split, Path], image_ids: Collection[str], problems: Problems, *, root: Path
) -> dict[str, Split]:
    """Read the lists that exist.

    Names are looked up among the images, so no line can reach another file. A presence flag
    behind the name (as in VOC's lists per class) is dropped.

    Args:
        paths: List file per split.
        image_ids: Ids of the images that exist.
        problems: Receives names without image and names in several lists.
        root: The data folder, for the messages.

    Returns:
        Split per id; empty when there is no list.
    """
    splits: dict[str, Split] = {}
    for split in _FIRST_TO_COUNT:
        path = paths.get(split)
        if path is None or not path.is_file():
            continue
        for line, sample_id in _lines(path, image_ids, problems, root):
            before = splits.setdefault(sample_id, split)
            if before != split:
                problems.error(
                    f"{shown(path, root)} line {line}",
                    f'"{sample_id}" is also in the {before} list; it would be trained on and '
                    "scored.",
                    "Remove it from one of the lists.",
                )
    return splits


def _lines(
    path: Path, image_ids: Collection[str], problems: Problems, root: Path
) -> list[tuple[int, str]]:
    """Return line number and id of each line that names an image."""
    name = shown(path, root)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        problems.error(name, f"cannot be read as UTF-8 ({fault}).", "Save it as UTF-8.")
        return []
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip()
        if not entry:
            continue
        sample_id = next((key for key in _candidates(entry) if key in image_ids), None)
        if sample_id is None:
            problems.error(
                f"{name} line {number}", f'"{entry}" names no image.', "Correct or remove the line."
            )
        else:
            found.append((number, sample_id))
    return found


def _candidates(entry: str) -> list[str]:
    """The ids that a line may mean: as it stands, without suffix, without a presence flag."""
    texts = [entry]
    head, _, tail = entry.rpartition(" ")
    if tail in _PRESENCE_FLAGS and head.strip():
        texts.append(head.strip())
    ids = []
    for text in texts:
        ids.append(text)
        file = PurePosixPath(text)
        if file.suffix.lower() in IMAGE_SUFFIXES:
            ids.append(file.with_suffix("").as_posix())
    return ids
