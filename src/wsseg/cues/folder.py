"""Cues that lie in a folder: one grey picture per image, matched by the image's id."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsseg import console
from wsseg.cues.protocol import CueConfig, CueContext, CueMap, check_rgb
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import IMAGE_SUFFIXES, read_image
from wsseg.errors import DataError
from wsseg.outside import MapsPath

_MAX_NAMES_SHOWN = 5


class Folder(CueConfig):
    """Settings of the cue `folder`."""

    is_stored: ClassVar[bool] = False

    name: Literal["folder"] = Field("folder", description="Which cue: maps of any other tool.")
    path: MapsPath = Field(
        min_length=1,
        description="Folder with one grey picture per image, named by the image's id; white "
        "stands out.",
    )

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        return "maps of another tool; what it was trained on is not known here"


class FolderCue:
    """Reads the map of an image from a folder."""

    config_class: type[CueConfig] = Folder

    def check(self, dataset: Dataset, *, config: Folder) -> None:
        """Look for the maps of all images before anything is computed.

        Args:
            dataset: The data set.
            config: Which folder.

        Raises:
            DataError: When the folder does not exist or has no map of any image. Single maps that
                are missing are a warning: those images fail, the others go on.
        """
        folder = Path(config.path)
        if not folder.is_dir():
            raise DataError(f"The folder of the maps, {folder}, does not exist.")
        missing = [s.id for s in dataset.samples if not self.has_map(s, config=config)]
        if missing and len(missing) == len(dataset.samples):
            raise DataError(
                f"{folder} has no map of any of the {len(missing)} images. A map is named by the "
                f"id of its image, here for instance {missing[0]}.png."
            )
        if missing:
            more = ", ..." if len(missing) > _MAX_NAMES_SHOWN else ""
            console.warning(
                f"{folder} has no map for {len(missing)} of {len(dataset.samples)} images "
                f"({', '.join(missing[:_MAX_NAMES_SHOWN])}{more}); they will fail."
            )

    def has_map(self, sample: Sample, *, config: Folder) -> bool:
        """Tell whether the folder has a map of an image.

        Args:
            sample: The image.
            config: Which folder.
        """
        return _candidate(Path(config.path), sample.id) is not None

    def __call__(
        self, image: np.ndarray, *, config: Folder, context: CueContext | None = None
    ) -> CueMap:
        """Read the map of one image.

        Args:
            image: (H, W, 3) uint8 RGB, for its size.
            config: Which folder.
            context: ``context.sample_id`` names the file.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            DataError: When the map is missing, unreadable, or of another shape than the image.
        """
        check_rgb(image)
        if context is None or not context.sample_id:
            raise DataError("The cue `folder` finds a map by the image's id, and none was given.")
        return read_cue(Path(config.path), context.sample_id, (image.shape[0], image.shape[1]))


folder = FolderCue()


def read_cue(folder: Path, sample_id: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """Read the map of one image, such as the saliency map of any other tool.

    Args:
        folder: Folder of the maps; ``folder/ID.png`` (or another image suffix) belongs to ID.
        sample_id: Id of the image, a relative path without suffix.
        size: (H, W) of the image; maps of another size with the same shape are resized.

    Returns:
        (H, W) float32 in [0, 1]; white is 1.

    Raises:
        DataError: When the map is missing, unreadable, or of another shape than the image.
    """
    path = _find(folder, sample_id)
    values = read_image(path)[:, :, 0].astype(np.float32) / np.float32(255)
    if values.shape == size:
        return values
    height, width = values.shape
    # One pixel of rounding per side is what shrinking to a longest side can do.
    if abs(height * size[1] - width * size[0]) > max(height, width) + max(size):
        raise DataError(
            f"{path}: the map is {width} x {height} px, its image {size[1]} x {size[0]} px. Make "
            "it from the image as it is, upright and not cropped."
        )
    import cv2

    resized = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1)


def _candidate(folder: Path, sample_id: str) -> Path | None:
    names = (f"{sample_id}{suffix}" for suffix in (".png", *sorted(IMAGE_SUFFIXES - {".png"})))
    return next((path for name in names if (path := folder / name).is_file()), None)


def _find(folder: Path, sample_id: str) -> Path:
    path = _candidate(folder, sample_id)
    if path is None:
        raise DataError(
            f"{folder / sample_id}.png: there is no map for this image. Add it, or use another "
            "background rule."
        )
    return path
