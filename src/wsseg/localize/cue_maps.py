"""The cue that a localizer learns from besides tags: checked, made, looked through, read.

A localizer whose settings have a field ``cue`` (`wsseg.cues.protocol.CueField`) gets the map of
every training image in its batches as an aligned map (`wsseg.localize.aligned`). Before the first
update every map is made and read once, so that one that is missing, damaged or of another shape
stops the run then and not hours later, and so that the user hears of the images of which the cue
says nothing: those whose map is zero everywhere, and with ``missing_maps: skip`` those without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsseg import console, registry
from wsseg.atomic import write_json
from wsseg.config import MethodConfig
from wsseg.cues.folder import Folder, read_cue
from wsseg.cues.protocol import CueConfig, CueInputs
from wsseg.cues.source import CueSource, check_cue, configured_cue, open_cue
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import image_size
from wsseg.data.working import working_size
from wsseg.errors import DataError, RecipeError

SAYS_NOTHING = -1.0
"""Value of a whole map where the cue says nothing of an image."""

SUMMARY_FILE = "taught.json"
_MAX_NAMES_SHOWN = 5


@dataclass
class LearnedCue:
    """The maps of a cue beside the training images, an `wsseg.localize.aligned.AlignedMap`.

    Args:
        config: The cue's settings.
        folder: Folder of its maps, one grey picture per image.
        skips_missing: Whether images may be without a map.
        max_side_px: Longest side that images are shrunk to when read.
        source: What makes the maps; None where they lie on disk. It stays in the process that
            trains.
    """

    config: CueConfig
    folder: Path
    skips_missing: bool = False
    max_side_px: int | None = None
    source: CueSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maker behind, which may hold a network, when a loading process gets a copy."""
        return self.__dict__ | {"source": None}

    def prepare(self, samples: Iterable[Sample]) -> None:
        """Make and read every map once, and tell of those that say nothing.

        Args:
            samples: The training images.

        Raises:
            DataError: Naming every map that is missing, damaged or of another shape.
            OutputError: When maps cannot be written.
        """
        learners = tuple(samples)
        failures: dict[str, str] = {}
        if self.source is not None:
            self.source.prepare(learners)
            failures = self.source.failures()
        problems: list[str] = []
        silent: dict[str, list[str]] = {"empty": [], "missing": []}
        for sample in learners:
            try:
                values = self._read(sample, self._size_of(sample))
            except DataError as error:
                problems.append(failures.get(sample.id, str(error)))
                continue
            if values is None:
                silent["missing"].append(sample.id)
            elif not values.any():
                silent["empty"].append(sample.id)
        if problems:
            raise DataError("These maps cannot teach the localizer:", problems)
        self._tell(len(learners), silent)

    def map(self, sample: Sample, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Give the map of one image.

        Args:
            sample: The image.
            image: (H, W, 3) uint8 RGB before any random change.

        Returns:
            (H, W) float32 in [0, 1], or `SAYS_NOTHING` everywhere.

        Raises:
            DataError: When the map is missing, damaged or of another shape than the image.
        """
        size = (image.shape[0], image.shape[1])
        values = self._read(sample, size)
        if values is None or not values.any():
            return np.full(size, SAYS_NOTHING, np.float32)
        return values

    def _size_of(self, sample: Sample) -> tuple[int, int]:
        return working_size(image_size(sample.image_path), self.max_side_px)

    def _read(self, sample: Sample, size: tuple[int, int]) -> npt.NDArray[np.float32] | None:
        if self.skips_missing and not _has_map(self.config, sample):
            return None
        return read_cue(self.folder, sample.id, size)

    def _tell(self, num_images: int, silent: dict[str, list[str]]) -> None:
        name = str(self.config.model_dump()["name"])
        for key, what in (("empty", "is zero everywhere in"), ("missing", "has no map for")):
            ids = silent[key]
            if ids:
                more = ", ..." if len(ids) > _MAX_NAMES_SHOWN else ""
                console.warning(
                    f"The cue {name} {what} {len(ids)} of {num_images} training images "
                    f"({', '.join(ids[:_MAX_NAMES_SHOWN])}{more}); they teach their tags only."
                )
        if self.source is not None:
            summary = self.source.maps_dir.parent / SUMMARY_FILE
            write_json(summary, {"images": num_images, **silent})


def learned_cue(config: MethodConfig, inputs: CueInputs) -> LearnedCue | None:
    """Open the cue that a localizer's settings name.

    Args:
        config: The localizer's settings: ``cue``, and optionally ``missing_maps``.
        inputs: The data set and what belongs to the run.

    Returns:
        The maps; None where no cue is named.

    Raises:
        DataError: When a cue that learns cannot do so from the data set.
        RecipeError: When the cue cannot be learned from; see `check_learned_cue`.
        OutputError: When its files cannot be written.
    """
    cue = configured_cue(config)
    if cue is None:
        return None
    _check_kind(cue)
    skips = getattr(config, "missing_maps", "error") == "skip"
    if isinstance(cue, Folder):
        return LearnedCue(cue, Path(cue.path), skips, inputs.max_side_px)
    source = open_cue(cue, inputs)
    return LearnedCue(cue, source.maps_dir, False, inputs.max_side_px, source)


def check_learned_cue(config: MethodConfig, dataset: Dataset) -> None:
    """Refuse before a run what a localizer's cue lacks; without a cue there is nothing to do.

    Args:
        config: The localizer's settings.
        dataset: The data set; only tagged images of its train split need a map.

    Raises:
        RecipeError: When the cue is made by the localizer that should learn from it, or its maps
            are not kept on disk.
        DataError: When maps are missing, unless ``missing_maps`` is ``skip``.
        MissingExtraError: When the cue needs an optional package.
        MissingWeightsError: When its network is not at hand.
    """
    cue = configured_cue(config)
    if cue is None:
        return
    _check_kind(cue)
    if not isinstance(cue, Folder) or not Path(cue.path).is_dir():
        check_cue(cue, dataset)
        return
    learners = tuple(s for s in dataset.split("train") if s.labels.tags is not None)
    mapped = tuple(sample for sample in learners if _has_map(cue, sample))
    missing = [sample.id for sample in learners if not _has_map(cue, sample)]
    if mapped and missing and getattr(config, "missing_maps", "error") == "error":
        raise DataError(
            f"{cue.path} has no map for {len(missing)} of the {len(learners)} images that the "
            "localizer learns from. Add them, or let these images teach their tags only with "
            "--set localize.missing_maps=skip:",
            missing,
        )
    check_cue(cue, replace(dataset, samples=mapped or learners))


def _check_kind(cue: CueConfig) -> None:
    name = cue.model_dump()["name"]
    if cue.needs_localizer:
        raise RecipeError(
            f'The cue "{name}" is made with the trained localizer, but the localizer is to learn '
            "from it. Choose another cue as localize.cue, or give it a network of its own (for "
            "anomaly: init=none or imagenet)."
        )
    if not cue.is_stored and not isinstance(cue, Folder):
        raise RecipeError(
            f'The maps of the cue "{name}" are not kept on disk, which a localizer needs that '
            "reads them in every epoch. Choose another cue as localize.cue."
        )


def _has_map(cue: CueConfig, sample: Sample) -> bool:
    has_map: bool = registry.load("cues", cue.model_dump()["name"]).has_map(sample, config=cue)
    return has_map
