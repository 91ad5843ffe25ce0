"""The families of synthetic scenes by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from wsseg.data.scenes import cooccurrence, defects, instances, parts
from wsseg.data.scenes.canvas import Scene
from wsseg.errors import DataError, unknown_name

MIN_SIDE_PX = 48

_MAKERS: Mapping[str, Callable[[np.random.Generator, tuple[int, int]], Scene]] = {
    "parts": parts.make,
    "cooccurrence": cooccurrence.make,
    "instances": instances.make,
    "defects": defects.make,
    "graded": parts.make_graded,
}

FAMILIES: tuple[str, ...] = tuple(_MAKERS)
"""Names of the families."""

CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "parts": parts.CLASSES,
        "cooccurrence": cooccurrence.CLASSES,
        "instances": instances.CLASSES,
        "defects": defects.CLASSES,
        "graded": parts.CLASSES,
    }
)
"""Class names of each family in the order of their ids, from 1."""


def make_scene(family: str, seed: int, size: tuple[int, int] = (128, 128)) -> Scene:
    """Paint one synthetic image.

    The same family, seed and size give the same pixels; no global random state is read or changed.
    Objects scale with the shorter side.

    Args:
        family: ``"parts"``, ``"cooccurrence"``, ``"instances"``, ``"defects"`` or
            ``"graded"``.
        seed: Any number from 0.
        size: Height and width in pixels, each at least 48.

    Returns:
        The image, its mask, the class ids in it, the objects and the regions of interest.

    Raises:
        DataError: The family is unknown, the seed negative or the size too small.

    Example:
        >>> scene = make_scene("defects", seed=5, size=(64, 96))
        >>> scene.image.shape, scene.mask.shape, sorted(scene.tags) == sorted(
        ...     set(scene.mask.ravel().tolist()) - {0})
        ((64, 96, 3), (64, 96), True)
    """
    if family not in _MAKERS:
        raise DataError(unknown_name("family of scenes", family, FAMILIES))
    if seed < 0:
        raise DataError(f"The seed of a scene is {seed}; give a number from 0.")
    if min(size) < MIN_SIDE_PX:
        raise DataError(
            f"A scene of {size[0]}x{size[1]} pixels is too small to hold its objects; "
            f"make both sides at least {MIN_SIDE_PX} pixels."
        )
    # The family is part of the seed, so that two families share no random numbers.
    rng = np.random.default_rng([zlib.crc32(family.encode()), seed])
    return _MAKERS[family](rng, (int(size[0]), int(size[1])))
