"""A moving average of a network's weights.

Reference: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
Journal on Control and Optimization, 1992; in the exponential form of Tarvainen and Valpola, "Mean
teachers are better role models", NeurIPS 2017 (from memory). With the decay d, after update t:

    average <- m * average + (1 - m) * weights,      m = min(d, (1 + t) / (10 + t))

The growing m lets the first, quickly changing weights fade fast. Buffers of floating-point
numbers (the running statistics of BatchNorm) are averaged as well, the others are copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The moving average of a module's weights and buffers.

    Args:
        module: The network, on its final device and in its final memory format.
        decay: d, above 0 and below 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.tensors: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in _weights(module).items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an update.

        Args:
            step: Updates done so far, from 1.
        """
        kept = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in _weights(self._module).items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - kept)
            else:
                self.tensors[name].copy_(tensor)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the module inside the block, and the weights back after it."""
        weights = _weights(self._module)
        before = {name: tensor.detach().clone() for name, tensor in weights.items()}
        copy_into(weights, self.tensors)
        try:
            yield
        finally:
            copy_into(weights, before)


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    """Copy values between tensors of the same names, keeping the targets' memory."""
    for name, target in targets.items():
        target.copy_(sources[name])


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
