"""What is measured after an epoch, and whether it was the best one so far."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wsseg.training.checkpoint import Position
from wsseg.training.ema import WeightAverage
from wsseg.training.processes import from_main_process

if TYPE_CHECKING:
    from accelerate import Accelerator

Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Monitor:
    """The logged number that tells the best epoch.

    Args:
        name: ``"miou"`` for larger is better, ``"-val_loss"`` for smaller is better; None: no
            epoch is better than another.
        patience_epochs: Epochs without a better one after which training stops; None: never.
    """

    name: str | None
    patience_epochs: int | None = None

    @property
    def sign(self) -> float:
        """-1 where smaller is better, else 1."""
        return -1.0 if (self.name or "").startswith("-") else 1.0

    def note(self, record: Mapping[str, Any], position: Position) -> bool:
        """Compare an epoch with the best one so far, and remember it where it is better.

        Args:
            record: The epoch's line of the log.
            position: Holds the best value and its epoch; changed here.

        Returns:
            Whether the epoch is the best so far. One whose number is None is not.

        Raises:
            ValueError: When the number is not in the record.
        """
        if self.name is None:
            return False
        key = self.name.removeprefix("-")
        if key not in record:
            raise ValueError(f'Expected "{key}" to be logged, but there is {sorted(record)}.')
        if record[key] is None:
            return False
        value = record[key] * self.sign
        if position.best_value is not None and value <= position.best_value:
            return False
        position.best_value, position.best_epoch = value, record["epoch"]
        return True

    def has_run_out(self, position: Position) -> bool:
        """Tell whether the last better epoch is too long ago, at the end of an epoch."""
        if self.patience_epochs is None or self.name is None or position.epoch_step:
            return False
        return position.epoch - (position.best_epoch or 0) >= self.patience_epochs


def run_validation(
    validate: Validate,
    module: nn.Module,
    ema: WeightAverage | None,
    accelerator: Accelerator,
    *,
    taken: Iterable[str],
) -> dict[str, float | None]:
    """Measure the network with the weights that would be kept.

    Args:
        validate: What measures; called without gradients.
        module: The network; left in evaluation mode with its own weights.
        ema: The averaged weights to measure instead, or None.
        accelerator: The connection to the other processes.
        taken: Names that the log uses already.

    Returns:
        Numbers by name, the first process's in every process; None for NaN and infinity.

    Raises:
        ValueError: When a name is taken.
    """
    module.eval()
    averaged = contextlib.nullcontext() if ema is None else ema.applied()
    with averaged, torch.no_grad():
        found = {name: float(value) for name, value in validate(module).items()}
    clash = sorted(found.keys() & set(taken))
    if clash:
        raise ValueError(
            f"Expected validate() to return names of its own, but {clash} are logged by the "
            'training. Begin them with "val_".'
        )
    found = from_main_process(accelerator, found)
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
