"""Masks in the folder layout of PASCAL VOC: images, index PNGs and lists of names.

Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010. The layout is
``JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png``,
``ImageSets/Segmentation/{train,val,test,trainval}.txt`` and ``labels.txt`` with the class names.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.atomic import atomic_path, write_text
from wsseg.data.image_io import read_image, write_mask
from wsseg.data.labels import ClassList
from wsseg.errors import DataError

_SPLITS = ("train", "val", "test")
_JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False)
class VocItem:
    """One image with its mask.

    Attributes:
        id: Image id, a relative path without suffix and with ``/``.
        image_path: The image.
        mask: (H, W) uint8 class ids, 255 ignored; None where there is none.
        split: ``train``, ``val`` or ``test``.
    """

    id: str
    image_path: Path
    mask: NDArray[np.uint8] | None
    split: str


def write_voc(folder: Path, items: Iterable[VocItem], classes: ClassList) -> int:
    """Write masks and images in the layout of VOC.

    JPEG files are copied as they are; other images become JPEG of quality 95, upright, because
    VOC tools look for that suffix. Masks have the VOC palette.

    Args:
        folder: Made where it is missing.
        items: Images with their masks; taken one after the other.
        classes: The class list.

    Returns:
        Number of images.

    Raises:
        DataError: When two images get the same name, a split is unknown, or a mask holds a class
            id beyond the class list.
        OutputError: When a file cannot be written.
    """
    lists: dict[str, list[str]] = {split: [] for split in _SPLITS}
    sources: dict[str, str] = {}
    for item in items:
        name = flat_name(item.id)
        if sources.setdefault(name.casefold(), item.id) != item.id:
            raise DataError(
                f'The images "{sources[name.casefold()]}" and "{item.id}" would both be called '
                f"{name} in the VOC layout, which has no sub-folders. Rename one."
            )
        if item.split not in lists:
            raise DataError(f'{item.id}: split is "{item.split}"; allowed are {_SPLITS}.')
        for class_id in np.unique(item.mask) if item.mask is not None else ():
            classes.name_of(int(class_id))
        lists[item.split].append(name)
        _write_jpeg(folder / "JPEGImages" / f"{name}.jpg", item.image_path)
        if item.mask is not None:
            write_mask(folder / "SegmentationClass" / f"{name}.png", item.mask)
    lists["trainval"] = sorted(lists["train"] + lists["val"])
    for split, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", text)
    write_text(folder / "labels.txt", "\n".join(["background", *classes.names]) + "\n")
    return len(sources)


def flat_name(image_id: str) -> str:
    """Name an image without folders.

    Example:
        >>> flat_name("line 1/cam/0001")
        'line 1__cam__0001'
    """
    return image_id.replace("/", "__")


def _write_jpeg(path: Path, source: Path) -> None:
    """Copy a JPEG, or convert another image, to ``path``."""
    from PIL import Image

    with Image.open(source) as picture:
        # A turned JPEG would not fit its upright mask in tools that ignore EXIF.
        is_upright_jpeg = picture.format == "JPEG" and picture.getexif().get(0x0112, 1) == 1
        is_plain = picture.mode in ("RGB", "L")
    if is_upright_jpeg and is_plain:
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)
        return
    image = Image.fromarray(read_image(source))
    with atomic_path(path) as temporary:
        image.save(temporary, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
