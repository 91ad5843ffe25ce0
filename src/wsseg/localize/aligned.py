"""Maps of a training image, such as saliency or segments, that follow its random crop.

A localizer's network or a regulariser that needs a map beside every training image has a method
`aligned_maps(inputs) -> {name: AlignedMap}`. The maps come into the batch under these names: with
the crop, size, mirroring and turns of the image, 0 where the crop is padded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from wsseg.data.dataset import Sample
from wsseg.data.geometry import Geometry
from wsseg.errors import DataError

if TYPE_CHECKING:
    from wsseg.cues.protocol import CueInputs
    from wsseg.nets.cam_head import ClassMapNet


class AlignedMap(Protocol):
    """Gives a map of every training image."""

    def prepare(self, samples: Iterable[Sample]) -> None:
        """Make ready, once in the main process, what `map` reads in loading processes.

        Args:
            samples: The images that will be asked for.
        """
        ...

    def map(self, sample: Sample, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
        """Give the map of one image.

        Args:
            sample: The image.
            image: (H, W, 3) uint8 RGB, as it is before any random change.

        Returns:
            (H, W) float32 values, which are interpolated, or int32 ids, which are not (0: none).
        """
        ...


def aligned_maps(net: ClassMapNet, inputs: CueInputs) -> dict[str, AlignedMap]:
    """Ask a network and its regularisers which maps they need beside the training images.

    Args:
        net: The network with its regularisers.
        inputs: The data set and what belongs to the run.

    Returns:
        The maps by their names in the batch.
    """
    found: dict[str, AlignedMap] = {}
    for owner in (net, *getattr(net, "regularisers", ())):
        ask = getattr(owner, "aligned_maps", None)
        for name, source in (ask(inputs) if ask is not None else {}).items():
            if name in found or name in ("image", "tags", "valid"):
                raise ValueError(f'Two aligned maps are named "{name}"; each needs its own name.')
            found[name] = source
    return found


def aligned_view(
    source: AlignedMap, sample: Sample, image: npt.NDArray[np.uint8], geometry: Geometry
) -> npt.NDArray[np.generic]:
    """Give the map of an image, as its crop shows it.

    Args:
        source: The maps.
        sample: The image.
        image: (H, W, 3) uint8 RGB before any random change.
        geometry: From that image to the crop.

    Returns:
        (1, h, w) float32 or int32.

    Raises:
        DataError: When the map has another size than the image.
    """
    values = source.map(sample, image)
    if values.shape != image.shape[:2]:
        raise DataError(
            f"{sample.id}: its map has shape {values.shape}, but the image has {image.shape[:2]} "
            "(H, W). Delete the maps that were made for another version of the image."
        )
    return geometry.view_of(values)[None]
