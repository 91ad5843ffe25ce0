"""Random numbers that depend on what they are for, never on what was drawn before.

Every draw of a training gets its own generator, seeded by the run's seed and a key (the epoch and
the item, or the update). So a training that continues after a kill, or with another number of
loading processes, sees the same numbers, and no generator state has to be stored.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch

_MAX_SEED = 2**32
_CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def generator(seed: int, *key: int, stream: int = 0) -> np.random.Generator:
    """Make the generator that belongs to a seed and a key.

    Args:
        seed: The run's seed, 0 to 2^32 - 1.
        key: What the numbers are for, such as epoch and item index; whole numbers from 0.
        stream: Kind of use; different streams with the same key are independent.

    Returns:
        A fresh generator.

    Example:
        >>> float(generator(7, 0, 3).random()) == float(generator(7, 0, 3).random())
        True
    """
    sequence = np.random.SeedSequence([seed, *key], spawn_key=(stream,))
    return np.random.default_rng(sequence)


def derive_seed(seed: int, *key: int, stream: int = 0) -> int:
    """Make the seed that belongs to a seed and a key, for libraries that want a number.

    Args:
        seed: The run's seed, 0 to 2^32 - 1.
        key: What it is for; whole numbers from 0.
        stream: Kind of use.

    Returns:
        0 to 2^32 - 1.
    """
    return int(generator(seed, *key, stream=stream).integers(_MAX_SEED))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices).

    Args:
        seed: 0 to 2^32 - 1.

    Raises:
        ValueError: When ``seed`` is out of range.

    Example:
        >>> seed_everything(3); first = torch.rand(2)
        >>> seed_everything(3); bool((first == torch.rand(2)).all())
        True
    """
    if not 0 <= seed < _MAX_SEED:
        raise ValueError(f"Expected a seed from 0 to {_MAX_SEED - 1}, but got {seed}.")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - other libraries draw from the global generator
    torch.manual_seed(seed)


@contextlib.contextmanager
def isolated_rng() -> Iterator[None]:
    """Give the global generators back as they were, whatever is drawn or seeded inside.

    So what follows a training does not depend on whether it ran or was already done.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


@contextlib.contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Make torch use repeatable operations inside, and warn where there is none.

    Args:
        enabled: False leaves everything as it is.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    before_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    before_benchmark = torch.backends.cudnn.benchmark
    # cuBLAS reads this when it starts; without it torch warns about every matrix product.
    os.environ.setdefault(_CUBLAS_VARIABLE, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=before_warn_only)
        torch.backends.cudnn.benchmark = before_benchmark
