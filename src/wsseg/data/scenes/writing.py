"""Write synthetic scenes as a data set: images, masks, ``labels.csv`` and ``classes.csv``."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from wsseg.data.image_io import write_mask
from wsseg.data.scenes.canvas import Scene
from wsseg.data.scenes.families import CLASSES, FAMILIES, make_scene
from wsseg.data.shape_files import csv_text
from wsseg.errors import DataError, OutputError, unknown_name

SplitName = Literal["train", "val"]


def scene_seed(seed: int, split: SplitName, index: int) -> int:
    """Derive the seed of one image of a data set; images do not depend on each other.

    Args:
        seed: Seed of the data set, from 0.
        split: ``"train"`` or ``"val"``.
        index: Number of the image within its split, from 0.

    Returns:
        What to give to `make_scene` to paint that image.

    Example:
        >>> scene_seed(0, "train", 3) == scene_seed(0, "val", 3)
        False
    """
    entropy = [seed, zlib.crc32(split.encode()), index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def make_dataset(
    family: str,
    out_dir: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
) -> Path:
    """Write a data set of synthetic scenes.

    The folder gets ``images/`` (PNG), ``masks/`` (palette PNG with class ids), ``classes.csv``
    (``id,name``) and, last, ``labels.csv`` (``file,tags,split``): where that file exists, the set
    is complete. A second call with the same arguments writes the same files; an image does not
    depend on the number of images.

    Args:
        family: Name of the family, see `FAMILIES`.
        out_dir: Folder to write; made where missing.
        num_train: Number of training images.
        num_val: Number of validation images.
        seed: Any number from 0.
        size: Height and width of the images in pixels.

    Returns:
        ``out_dir``.

    Raises:
        DataError: The family is unknown, or a number is negative.
        OutputError: The folder holds other images, or cannot be written.
    """
    from wsseg.atomic import write_text

    if family not in FAMILIES:
        raise DataError(unknown_name("family of scenes", family, FAMILIES))
    if num_train < 0 or num_val < 0 or seed < 0:
        raise DataError(
            f"num_train={num_train}, num_val={num_val} and seed={seed} must not be negative."
        )
    plan: list[tuple[str, SplitName, int]] = [
        *((f"train_{index:05d}", "train", index) for index in range(num_train)),
        *((f"val_{index:05d}", "val", index) for index in range(num_val)),
    ]
    _refuse_foreign_files(out_dir, {f"{stem}.png" for stem, _, _ in plan})
    rows = []
    for stem, split, index in plan:
        scene = make_scene(family, scene_seed(seed, split, index), size)
        _write_scene(out_dir, stem, scene)
        names = [CLASSES[family][class_id - 1] for class_id in sorted(scene.tags)]
        rows.append((f"{stem}.png", ";".join(names), split))
    class_rows = enumerate(("background", *CLASSES[family]))
    write_text(out_dir / "classes.csv", csv_text(("id", "name"), class_rows))
    write_text(out_dir / "labels.csv", csv_text(("file", "tags", "split"), rows))
    return out_dir


def _refuse_foreign_files(out_dir: Path, own: set[str]) -> None:
    """Raise where images of another set lie in the folder: the two would be mixed."""
    for folder in (out_dir / "images", out_dir / "masks"):
        names = {path.name for path in folder.glob("*") if not path.name.startswith(".")}
        foreign = sorted(names - own)
        if foreign:
            raise OutputError(
                f"{folder} holds {len(foreign)} files of another set ({foreign[0]}, ...). "
                "Write to an empty folder."
            )


def _write_scene(out_dir: Path, stem: str, scene: Scene) -> None:
    """Write the image and the mask of one scene."""
    from PIL import Image

    from wsseg.atomic import atomic_path

    with atomic_path(out_dir / "images" / f"{stem}.png") as temporary:
        Image.fromarray(scene.image).save(temporary, format="PNG", compress_level=1)
    write_mask(out_dir / "masks" / f"{stem}.png", scene.mask)
