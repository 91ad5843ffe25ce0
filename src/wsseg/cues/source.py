"""Maps of a cue for a whole data set: made once per image and kept as grey pictures on disk.

Every cue has a folder ``NAME-FINGERPRINT`` whose fingerprint covers its settings, the data, and
the trained localizer where the maps depend on it. Several steps of a run that use the same cue
share it, and a run that is continued makes only what is missing. Maps are kept in 8 bits, and what
`CueSource.map` returns went through these 8 bits the first time too, so that a continued run gives
the same result. The pictures have the layout that the cue ``folder`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsseg import console, registry
from wsseg.atomic import atomic_path, write_json
from wsseg.config import MethodConfig
from wsseg.context import RunContext
from wsseg.cues.protocol import CueConfig, CueContext, CueInputs, CueMap, FittedCue, checked_map
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import read_image
from wsseg.data.working import read_working_image
from wsseg.device import best_device
from wsseg.errors import DataError
from wsseg.outside import outside_marks
from wsseg.processes import from_main_process
from wsseg.rundir import StageDir, fingerprint

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

VERSION = 1
STATE_FILE = "state.json"
_MAX_NAMES_SHOWN = 5


def configured_cue(config: MethodConfig) -> CueConfig | None:
    """Find the cue that a method's settings name.

    Args:
        config: Settings with a field ``cue`` (a `CueField`) or ``cue_folder`` (a path), or without.

    Returns:
        The cue's settings, or None where no cue is named.
    """
    cue = getattr(config, "cue", None)
    path = getattr(config, "cue_folder", None)
    if cue is None and path is not None:
        from wsseg.cues.folder import Folder

        cue = Folder(path=path)
    if cue is None or isinstance(cue, CueConfig):
        return cue
    raise TypeError(f"{type(cue).__name__} must derive from wsseg.cues.protocol.CueConfig.")


def check_cue(config: CueConfig, dataset: Dataset) -> None:
    """Ask a cue what it needs, before a run starts.

    Args:
        config: The cue's settings.
        dataset: The data set.

    Raises:
        DataError: When maps or images that it needs are not there.
        MissingExtraError: When it needs an optional package.
        MissingWeightsError: When its network is not at hand.
    """
    check = getattr(registry.load("cues", _name(config)), "check", None)
    if check is not None:
        check(dataset, config=config)


def open_cue(config: CueConfig, inputs: CueInputs) -> CueSource:
    """Make a cue ready for the images of a data set; a cue that learns does so here, once.

    Args:
        config: The cue's settings; its ``name`` picks the cue.
        inputs: The data set and what belongs to the run.

    Returns:
        The maps.

    Raises:
        DataError: When the cue cannot learn from the data set.
        OutputError: When its files cannot be written.
    """
    cue = registry.load("cues", _name(config))
    mark = _fingerprint(config, inputs, is_fitted=isinstance(cue, FittedCue))
    stage = StageDir(inputs.folder / f"{_name(config)}-{mark[:8]}", mark)
    if config.is_stored:
        stage.begin()
    state: dict[str, Any] = {}
    if isinstance(cue, FittedCue):
        state = from_main_process(lambda: _fitted_state(cue, config, inputs, stage.path))
    return CueSource(config, cue, inputs, stage, state)


def open_configured_cue(
    dataset: Dataset,
    config: MethodConfig,
    folder: Path,
    context: RunContext,
    localizer: Callable[[], ClassMapNet] | None,
) -> CueSource | None:
    """Open the cue that a method's settings name, if they name one.

    Args:
        dataset: The data set.
        config: The method's settings.
        folder: The method's stage folder, for the maps of a run without a folder for cues.
        context: Settings of the run.
        localizer: Loads the trained localizer, for cues that look at its features; None: there is
            none.

    Returns:
        The cue, or None where the settings name none.
    """
    cue = configured_cue(config)
    if cue is None:
        return None
    inputs = CueInputs(
        dataset=dataset,
        folder=context.cues_dir or folder / "cues",
        seed=context.seed,
        device=best_device(),
        max_side_px=context.max_side_px,
        localizer=localizer,
        localizer_fingerprint=context.localizer_fingerprint,
    )
    return open_cue(cue, inputs)


class CueSource:
    """The maps of one cue; `open_cue` makes it.

    Args:
        config: The cue's settings.
        cue: The registered cue.
        inputs: The data set and what belongs to the run.
        stage: The cue's own folder.
        state: What the cue has learned.

    Attributes:
        empty: Ids of the images whose map was zero everywhere, of those asked for so far.
    """

    def __init__(
        self,
        config: CueConfig,
        cue: Any,
        inputs: CueInputs,
        stage: StageDir,
        state: dict[str, Any],
    ) -> None:
        self.config = config
        self.empty: list[str] = []
        self._cue = cue
        self._inputs = inputs
        self._stage = stage
        self._context = CueContext(
            device=inputs.device,
            seed=inputs.seed,
            state=state,
            folder=stage.path,
            localizer=inputs.localizer,
        )

    def map(self, sample: Sample, image: np.ndarray | None = None) -> CueMap:
        """Give the map of one image, from disk where it is there.

        Args:
            sample: The image.
            image: (H, W, 3) uint8 RGB as `wsseg.data.working.read_working_image` reads it; None
                reads it.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            DataError: When the image or its map cannot be had.
            OutputError: When the map cannot be written.
        """
        if image is None:
            image = read_working_image(sample.image_path, self._inputs.max_side_px)
        values = self._stored_or_new(sample, image) if self.config.is_stored else None
        if values is None:
            values = self._new(sample, image)
        if not values.any():
            self.empty.append(sample.id)
        return values

    @property
    def maps_dir(self) -> Path:
        """Folder of the stored maps, ``ID.png``; empty where the cue's maps are not stored."""
        return self._stage.path / "maps"

    def failures(self) -> dict[str, str]:
        """List the images whose map could not be made: ``{id: reason}``."""
        return self._stage.failures()

    def prepare(self, samples: Iterable[Sample]) -> None:
        """Make the maps of many images, so that `map` only reads them afterwards.

        Args:
            samples: The images. One that fails is noted and stops nothing; `map` says why.

        Raises:
            OutputError: When maps cannot be written.
        """
        if not self.config.is_stored:
            return

        def work(sample: Sample) -> None:
            self.map(sample)

        self._stage.for_each(
            list(samples),
            work,
            title=f"cue: {_name(self.config)}",
            is_still_good=lambda sample, _line: self._path(sample).is_file(),
        )

    def note_empty(self) -> None:
        """Tell the user which images have a map that is zero everywhere."""
        names = list(dict.fromkeys(self.empty))
        if not names:
            return
        more = ", ..." if len(names) > _MAX_NAMES_SHOWN else ""
        console.warning(
            f"The cue {_name(self.config)} is zero everywhere in {len(names)} images "
            f"({', '.join(names[:_MAX_NAMES_SHOWN])}{more}): nothing stands out in them."
        )

    def _path(self, sample: Sample) -> Path:
        return self._stage.file("maps", sample.id, ".png")

    def _new(self, sample: Sample, image: np.ndarray) -> CueMap:
        self._context.sample_id = sample.id
        size = (image.shape[0], image.shape[1])
        found = self._cue(image, config=self.config, context=self._context)
        return checked_map(found, size, _name(self.config))

    def _stored_or_new(self, sample: Sample, image: np.ndarray) -> CueMap:
        path = self._path(sample)
        stored = _read_map(path, (image.shape[0], image.shape[1]))
        if stored is None:
            stored = np.rint(self._new(sample, image) * np.float32(255)).astype(np.uint8)
            _write_map(path, stored)
        return stored.astype(np.float32) / np.float32(255)


def _name(config: CueConfig) -> str:
    return str(config.name)  # type: ignore[attr-defined]


def _fingerprint(config: CueConfig, inputs: CueInputs, *, is_fitted: bool) -> str:
    """Name what the maps depend on; networks and weight files by their content, too."""
    files = outside_marks(config, inputs.dataset) if config.is_stored or is_fitted else {}
    return fingerprint(
        "cue",
        VERSION,
        config.model_dump(mode="json"),
        inputs.max_side_px,
        inputs.dataset.fingerprint(masks=False),
        inputs.seed if is_fitted else None,
        inputs.localizer_fingerprint if config.needs_localizer else None,
        *([files] if files else []),
    )


def _fitted_state(
    cue: FittedCue, config: CueConfig, inputs: CueInputs, folder: Path
) -> dict[str, Any]:
    """Read what the cue learned, or let it learn; the state is written when all is there."""
    path = folder / STATE_FILE
    try:
        state = json.loads(path.read_text("utf-8"))
        if isinstance(state, dict):
            return state
    except (OSError, ValueError):
        pass
    state = cue.fit(inputs, folder, config=config)
    write_json(path, state)
    for note in state.get("notes", []):
        console.info(f"cue {_name(config)}: {note}")
    return state


def _read_map(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    """Read a stored map; None where it is missing, damaged or of another size."""
    if not path.is_file():
        return None
    try:
        values = read_image(path)[:, :, 0]
    except DataError:
        return None
    return values if values.shape == size else None


def _write_map(path: Path, values: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary)
