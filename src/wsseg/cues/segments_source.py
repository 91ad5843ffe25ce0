"""All segments of the images of a data set: made once per image and kept on disk.

A file is named by the pixels of its image, its folder by the backend, its settings and, where it
has some, its weights. So a changed image, setting or network never finds the segments of another,
and several steps of a run that ask for the same segments share them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsseg import console, registry
from wsseg.atomic import atomic_path
from wsseg.config import MethodConfig
from wsseg.cues.sam_network import image_digest
from wsseg.cues.segments import OpenedImage, Segments, SegmentsContext, open_segments
from wsseg.cues.segments_files import DAMAGE, load_segments, save_segments
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.working import read_working_image
from wsseg.errors import DataError, RecipeError
from wsseg.rundir import fingerprint

VERSION = 1
_MAX_NAMES_SHOWN = 5


def check_segments(config: MethodConfig, dataset: Dataset) -> None:
    """Ask a backend what it needs, before a run starts.

    Args:
        config: The backend's settings.
        dataset: The data set.

    Raises:
        DataError: When files that it needs are not there.
        MissingExtraError: When it needs an optional package.
        MissingWeightsError: When its network is not at hand.
        RecipeError: When its network is none for segments.
    """
    check = getattr(_backend(config), "check", None)
    if check is not None:
        check(dataset, config=config)


def check_configured(config: MethodConfig, dataset: Dataset) -> None:
    """Ask the backend that a method's settings name in ``segments``, if they have such a field.

    The log says which backend it is.

    Args:
        config: Settings of a refiner or a regulariser.
        dataset: The data set.

    Raises:
        WssegError: As `check_segments`.
    """
    settings = getattr(config, "segments", None)
    if isinstance(settings, MethodConfig):
        method = str(config.model_dump()["name"])
        console.info(f"{method} takes segments of: {settings.model_dump()['name']}")
        check_segments(settings, dataset)


def check_supervision(methods: Iterable[MethodConfig], supervision: str) -> None:
    """Refuse a recipe that says tags only, but takes segments of a network trained on masks.

    Args:
        methods: Settings of all refiners and regularisers of the recipe.
        supervision: What the recipe says.

    Raises:
        RecipeError: Saying what to set.
    """
    for config in methods:
        settings = getattr(config, "segments", None)
        if supervision == "I" and getattr(settings, "name", "") == "sam":
            raise RecipeError(
                f"supervision is I, image tags only, but {config.model_dump()['name']} takes "
                "segments of SAM, which was trained on masks. Set supervision=I+SAM."
            )


def open_kept(image: np.ndarray, config: MethodConfig, context: SegmentsContext) -> OpenedImage:
    """Open an image with a backend; what is expensive is kept below ``context.folder``.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: The backend's settings.
        context: Folder, device and what is shared.

    Returns:
        What answers prompts.
    """
    folder = None if context.folder is None else context.folder / "embeddings"
    return open_segments(image, config, replace(context, folder=folder))


def all_segments(image: np.ndarray, config: MethodConfig, context: SegmentsContext) -> Segments:
    """List all segments of an image, from disk where they are there.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: The backend's settings.
        context: Folder, device and what is shared; without a folder nothing is kept.

    Returns:
        The segments, the best first.

    Raises:
        DataError: When the image's segments cannot be had.
        OutputError: When they cannot be written.
    """
    path = _path(image, config, context, "everything", ".npz")
    if path is not None and path.is_file():
        try:
            return load_segments(path)
        except DataError:
            path.unlink()  # damaged: it is made anew
    found = open_kept(image, config, context).everything()
    if path is not None:
        save_segments(path, found)
    return found


def painting_order(segments: Segments, overlap: str) -> list[int] | None:
    """Tell in which order segments are painted into one map.

    Args:
        segments: The segments, the best first.
        overlap: Which lies on top where they overlap: ``"score"``, the better one, or ``"area"``,
            the smaller one.

    Returns:
        The order for `Segments.label_map`.
    """
    if overlap == "score":
        return None
    order: list[int] = np.argsort(-segments.areas(), kind="stable").tolist()
    return order


@dataclass
class SegmentMaps:
    """Maps of segment numbers beside the training images: a `wsseg.localize.aligned.AlignedMap`.

    Args:
        config: The backend's settings.
        folder: Where segments and their maps are kept.
        overlap: Which of overlapping segments is seen, ``"score"`` or ``"area"``.
        device: Where torch code runs.
        max_side_px: Longest side that images are shrunk to when read.
        shared: Reused between all images; it stays in the process that trains.
    """

    config: MethodConfig
    folder: Path
    overlap: str = "score"
    device: str = "cpu"
    max_side_px: int | None = None
    shared: dict[Any, Any] = field(default_factory=dict)
    _places: dict[str, Path] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded network behind when a loading process gets a copy."""
        return self.__dict__ | {"shared": {}}

    def prepare(self, samples: Iterable[Sample]) -> None:
        """Make the maps of all training images, and tell of those without any segment.

        Args:
            samples: The training images.

        Raises:
            DataError: Naming every image whose segments cannot be had, or when no image has any.
            OutputError: When maps cannot be written.
        """
        learners = list(samples)
        problems: list[str] = []
        bare: list[str] = []
        name = str(self.config.model_dump()["name"])
        with console.progress(len(learners), f"segments: {name}") as progress:
            for sample in learners:
                try:
                    image = read_working_image(sample.image_path, self.max_side_px)
                    if not self._made(sample, image).any():
                        bare.append(sample.id)
                except DataError as error:
                    problems.append(str(error))
                progress.advance()
        if problems:
            raise DataError("The segments of these images cannot be had:", problems)
        if bare and len(bare) == len(learners):
            raise DataError(
                f"None of the {len(bare)} training images has a segment, so there is nothing to "
                f"learn from. Loosen the settings of the segments backend {name}."
            )
        if bare:
            more = ", ..." if len(bare) > _MAX_NAMES_SHOWN else ""
            console.warning(
                f"{len(bare)} of {len(learners)} images have no segment and teach nothing about "
                f"segments ({', '.join(bare[:_MAX_NAMES_SHOWN])}{more})."
            )

    def map(self, sample: Sample, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Give the map of one image.

        Args:
            sample: The image.
            image: (H, W, 3) uint8 RGB before any random change.

        Returns:
            (H, W) int32, 0 where there is no segment.

        Raises:
            DataError: When it was not made, or is damaged.
        """
        path = self._places.get(sample.id)
        if path is None:
            return self._made(sample, image)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                labels: npt.NDArray[np.int32] = archive["labels"]
                return labels
        except DAMAGE as fault:
            raise DataError(
                f"{sample.id}: the map of its segments, {path}, cannot be read ({fault}). Delete "
                "it and run again."
            ) from fault

    def _made(self, sample: Sample, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        context = SegmentsContext(sample.id, self.device, self.folder, self.shared)
        path = _path(image, self.config, context, f"by-{self.overlap}", ".npz")
        if path is not None and path.is_file():
            self._places[sample.id] = path
            try:
                return self.map(sample, image)
            except DataError:
                path.unlink()
        segments = all_segments(image, self.config, context)
        labels = segments.label_map(painting_order(segments, self.overlap))
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, labels=labels)
            self._places[sample.id] = path
        return labels


def _backend(config: MethodConfig) -> Any:
    return registry.load("segments", str(config.model_dump()["name"]))


def _path(
    image: np.ndarray, config: MethodConfig, context: SegmentsContext, kind: str, suffix: str
) -> Path | None:
    """Name the file of an image's segments; None where nothing is kept."""
    backend = _backend(config)
    if context.folder is None or not getattr(backend, "is_stored", True):
        return None
    identity = getattr(backend, "identity", None)
    weights = "" if identity is None else identity(config=config, context=context)
    content = config.model_dump(mode="json")
    mark = fingerprint("segments", VERSION, content, weights)
    return context.folder / f"{content['name']}-{mark[:8]}" / kind / (image_digest(image) + suffix)
