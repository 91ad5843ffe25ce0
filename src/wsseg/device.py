"""Where tensors live: a GPU when there is one."""

from __future__ import annotations


def best_device() -> str:
    """Name the fastest device of this machine.

    Returns:
        ``"cuda"``, ``"mps"`` or ``"cpu"``.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
