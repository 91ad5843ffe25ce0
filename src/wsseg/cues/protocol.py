"""What a cue is: a function from an image to a map that says where something is, not what.

A plain cue is a function ``cue(image, *, config, context) -> map``. A cue that must see the data
set first (what normal images look like) is an object that can be called the same way and has
``fit(inputs, *, config) -> state``. Maps are (H, W) float32 in [0, 1] at the size of the image;
1 stands out, 0 is background, and an image in which nothing stands out is 0 everywhere.

Cues are registered in the group ``cues``; other packages add theirs through the entry-point group
``wsseg.cues``. `wsseg.cues.source.open_cue` makes maps once and keeps them on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, SerializeAsAny

from wsseg import registry
from wsseg.config import MethodConfig
from wsseg.data.dataset import Dataset
from wsseg.errors import DataError

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

FROM_THE_IMAGE = "computed from the image alone, without trained weights"
"""What `CueConfig.origin` says of weight-free cues."""

CueMap = npt.NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""


class CueConfig(MethodConfig):
    """Settings of a registered cue; subclasses declare ``name: Literal["its_name"]``.

    Attributes:
        is_stored: Whether maps are kept in the run. False for what lies on disk anyway.
    """

    is_stored: ClassVar[bool] = True

    @property
    def origin(self) -> str:
        """Where the maps come from, in words for report and model card."""
        return "of another package, which does not say where its maps come from"


def _checked_settings(value: Any) -> Any:
    return None if value is None else registry.settings("cues", value)


CueField = Annotated[SerializeAsAny[MethodConfig] | None, BeforeValidator(_checked_settings)]
"""A field of any configuration that holds the settings of a cue, or null for none; keys of such
fields are listed in `wsseg.explain.GROUPS`."""


@dataclass(frozen=True)
class CueInputs:
    """What a cue may know of the run.

    Args:
        dataset: The data set.
        folder: Where cues keep their maps; every cue makes a folder of its own in it.
        seed: Seed of everything random.
        device: Where torch code runs, such as ``"cpu"`` or ``"cuda:0"``.
        max_side_px: Images are read with their longer side reduced to this; None as they are.
        localizer: Loads the run's trained localizer, in evaluation mode on the CPU; None where
            there is none.
        localizer_fingerprint: Names its training; maps that depend on it are made anew when it
            changes.
    """

    dataset: Dataset
    folder: Path
    seed: int = 0
    device: str = "cpu"
    max_side_px: int | None = None
    localizer: Callable[[], ClassMapNet] | None = None
    localizer_fingerprint: str = ""


@dataclass
class CueContext:
    """What a cue may know besides the image.

    Args:
        sample_id: Id of the sample, for messages and for files.
        device: Where torch code runs.
        seed: Seed of everything random.
        state: What `FittedCue.fit` returned; empty for plain cues.
        folder: The cue's own folder, where `fit` put its files; None outside of a run.
        shared: Reused between all images, such as a loaded network.
        localizer: Loads the run's trained localizer; None where there is none.
    """

    sample_id: str = ""
    device: str = "cpu"
    seed: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict)
    localizer: Callable[[], ClassMapNet] | None = None


class Cue(Protocol):
    """Makes the map of one image.

    An object may have ``check(dataset, *, config)`` that raises before a run starts what would
    fail hours later.
    """

    def __call__(
        self, image: np.ndarray, *, config: Any = ..., context: CueContext | None = None
    ) -> CueMap:
        """Make the map of one image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            config: The cue's own frozen settings.
            context: What else is known; None means nothing is.

        Returns:
            (H, W) float32 in [0, 1].
        """
        ...


@runtime_checkable
class FittedCue(Protocol):
    """A cue that looks at the whole data set first.

    Attributes:
        config_class: The class of its settings.
    """

    config_class: type[CueConfig]

    def fit(self, inputs: CueInputs, folder: Path, *, config: Any) -> dict[str, Any]:
        """Learn what `__call__` needs.

        Args:
            inputs: The data set and what belongs to the run.
            folder: The cue's own folder, for files.
            config: The cue's own frozen settings.

        Returns:
            JSON-able state; ``notes`` are shown to the user.
        """
        ...

    def __call__(
        self, image: np.ndarray, *, config: Any = ..., context: CueContext | None = None
    ) -> CueMap:
        """Make the map of one image; see `Cue`."""
        ...


def check_rgb(image: np.ndarray) -> None:
    """Check that an image is RGB.

    Raises:
        DataError: When it is no (H, W, 3) uint8 array with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise DataError(
            f"The image has shape {image.shape} and type {image.dtype}; expected (H, W, 3) uint8 "
            "with at least one pixel."
        )


def checked_map(values: np.ndarray, size: tuple[int, int], name: str) -> CueMap:
    """Check what a cue returned.

    Args:
        values: The map.
        size: (H, W) of the image.
        name: Name of the cue, for the message.

    Returns:
        The map as float32.

    Raises:
        DataError: When it is no (H, W) floating-point array in [0, 1].
    """
    if values.shape != size or not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            f'The cue "{name}" gave a map of shape {values.shape} and type {values.dtype}; '
            f"expected {size} (H, W) floating point."
        )
    low, high = float(values.min()), float(values.max())
    # NaN fails both comparisons.
    if not (low >= 0 and high <= 1):
        raise DataError(f'The cue "{name}" gave values from {low:g} to {high:g}; expected [0, 1].')
    return values.astype(np.float32, copy=False)
