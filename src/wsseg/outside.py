"""What lies outside of a run and decides its results: weight files, networks and maps in folders.

A recipe names them by a path. Of a path alone nobody sees that the files behind it were replaced,
so the fingerprints of stages and cues hold a mark of their content, too. A field that names such a
path says so by its type:

    weights: WeightsPath = Field("none", description="imagenet, none, or the path of a file.")

Only content counts, never the time of a file: what is copied anew trains nothing again. Files of up
to `WHOLE_BYTES` are hashed whole. Of larger ones, which are weights, the size, the first and the
last `END_BYTES` are hashed: training changes all weights, and reading gigabytes at the start of
every command would take longer than that is worth. So weights that were edited only in the middle
of a large file are not noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from wsseg.data.dataset import Dataset

WHOLE_BYTES = 64 * 2**20
END_BYTES = 2**20
RECORD_FILE = "outside.json"
"""File of a run with the marks that its stages were made with."""
MISSING = "missing"
# Words that stand in place of a path.
_WORDS = ("", "imagenet", "localizer", "none")
# What a network is loaded from; a read-me beside it decides nothing.
_NETWORK_SUFFIXES = (".bin", ".json", ".model", ".pt", ".pth", ".safetensors", ".txt")

Kind = Literal["weights", "network", "maps"]


@dataclass(frozen=True)
class Outside:
    """Marks a field whose text may be the path of something outside of the run.

    Args:
        kind: ``"weights"``, a file; ``"network"``, a folder of `transformers`; ``"maps"``, a folder
            with one picture per image, named by the image's id.
    """

    kind: Kind


WeightsPath = Annotated[str, Outside("weights")]
"""A word such as ``none``, or the path of a weight file."""
NetworkPath = Annotated[str, Outside("network")]
"""The folder of a network, or its name on a hub, of which only the name is known."""
MapsPath = Annotated[str, Outside("maps")]
"""A folder with one picture per image."""


def outside_marks(
    settings: BaseModel, dataset: Dataset | None = None, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Mark all files that settings name, by their content.

    Args:
        settings: Settings of a method; those inside of them count, too.
        dataset: The images whose maps count; None: maps do not count.
        known: What an earlier call returned. Where nothing is at a path any more, its mark still
            holds, so that a finished run can be looked at without its first weights.

    Returns:
        ``{"KIND:PATH": mark}``; `MISSING` where nothing is there and nothing known. Names of
        networks on a hub have no mark.

    Example:
        >>> from wsseg.localize.tags.cam import Cam
        >>> outside_marks(Cam(weights="imagenet"))
        {}
        >>> outside_marks(Cam(weights="gone.safetensors"))
        {'weights:gone.safetensors': 'missing'}
        >>> outside_marks(Cam(weights="gone.safetensors"), known={"weights:gone.safetensors": "a1"})
        {'weights:gone.safetensors': 'a1'}
    """
    marks: dict[str, str] = {}
    for kind, text in sorted(set(_paths(settings))):
        if kind == "maps" and dataset is None:
            continue
        found = _mark(kind, Path(text), dataset)
        key = f"{kind}:{text}"
        if found is None:
            found = (known or {}).get(key, "" if kind == "network" else MISSING)
        if found:
            marks[key] = found
    return marks


def file_mark(path: Path) -> str:
    """Hash the content of a file: all of it, or the size and both ends of a large one.

    Args:
        path: The file; it is read again only when its size or time has changed.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: When it cannot be read.
    """
    state = path.stat()
    return _file_mark(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _file_mark(path: Path, size: int, _mtime_ns: int) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as stream:
        if size <= WHOLE_BYTES:
            while part := stream.read(END_BYTES):
                digest.update(part)
        else:
            digest.update(stream.read(END_BYTES))
            stream.seek(-END_BYTES, 2)
            digest.update(stream.read(END_BYTES))
    return digest.hexdigest()


def _mark(kind: Kind, path: Path, dataset: Dataset | None) -> str | None:
    """Mark what is at a path; None where there is nothing that can be read."""
    try:
        if kind == "weights":
            return file_mark(path)
        if not path.is_dir():
            return None
        files = _network_files(path) if kind == "network" else _map_files(path, dataset)
        digest = hashlib.blake2b(digest_size=16)
        for name, file in files:
            digest.update(f"{name}\0{file_mark(file)}\0".encode())
        return digest.hexdigest()
    except OSError:
        return None


def _network_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _NETWORK_SUFFIXES and path.is_file():
            yield path.name, path


def _map_files(folder: Path, dataset: Dataset | None) -> Iterator[tuple[str, Path]]:
    """Find the pictures of the images of a data set; those of others may come and go."""
    from wsseg.data.image_io import IMAGE_SUFFIXES

    suffixes = (".png", *sorted(IMAGE_SUFFIXES - {".png"}))
    for sample in sorted(dataset.samples if dataset else (), key=lambda sample: sample.id):
        named = (folder / f"{sample.id}{suffix}" for suffix in suffixes)
        found = next((path for path in named if path.is_file()), None)
        if found is not None:
            yield sample.id, found


def _paths(value: Any) -> Iterator[tuple[Kind, str]]:
    """Walk settings, and the settings in them, for paths."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            held = getattr(value, name)
            marker = next(_markers((field.annotation, *field.metadata)), None)
            if isinstance(held, str) and marker is not None:
                if held not in _WORDS:
                    yield marker.kind, held
            else:
                yield from _paths(held)
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from _paths(held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from _paths(held)


def _markers(parts: tuple[Any, ...]) -> Iterator[Outside]:
    """Find the markers in a type such as ``WeightsPath | None``."""
    for part in parts:
        if isinstance(part, Outside):
            yield part
        else:
            yield from _markers(get_args(part))
