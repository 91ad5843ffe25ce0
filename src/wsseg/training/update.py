"""One update of the weights: forward and backward passes, guards, the optimiser's step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.training.config import TrainingConfig
from wsseg.training.optim import lr_factor, set_lr
from wsseg.training.processes import LossModule, mean_over_processes
from wsseg.training.seeds import derive_seed, seed_everything

if TYPE_CHECKING:
    from accelerate import Accelerator

_STREAM = 3
_MAX_SKIPPED_IN_A_ROW = 50


class Updater:
    """Updates a network's weights, one call per update.

    Args:
        accelerator: Device, precision and connection to the other processes.
        module: The network, on the device. Where it has ``on_progress(fraction)``, it is told
            before every update which fraction of the training is over, in [0, 1).
        optimizer: The optimiser of its weights, from `build_optimizer`.
        config: Schedule and clipping.
        total_steps: Updates in the whole training.
        seed: The run's seed.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        *,
        total_steps: int,
        seed: int,
    ) -> None:
        self._accelerator, self._config = accelerator, config
        self._total_steps, self._seed = total_steps, seed
        self._plain_optimizer = optimizer
        self._forward: Any
        self._forward, self._optimizer = accelerator.prepare(LossModule(module), optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._skipped_in_a_row = 0
        self._on_progress = getattr(module, "on_progress", None)

    def lr(self, step: int) -> float:
        """Tell the backbone's learning rate at an update, numbered from 0."""
        return self._config.lr * lr_factor(step, self._total_steps, self._config)

    def update(
        self,
        batches: Iterator[dict[str, Tensor]],
        num_batches: int,
        *,
        epoch: int,
        step: int,
        note: float = 0.0,
    ) -> tuple[dict[str, float], float]:
        """Average the gradients of some batches and step.

        Args:
            batches: Where the batches come from.
            num_batches: How many of them make this update.
            epoch: From 0, for messages.
            step: Number of the update in the whole training, from 0.
            note: A number of this process, sent along with the loss.

        Returns:
            The means over batches and processes of all loss terms, with ``grad_norm`` (before
            clipping) and, under float16, ``skipped``; and the mean of the notes.

        Raises:
            RecipeError: When the loss or the gradient is not finite; the weights are then as they
                were before.
        """
        set_lr(self._plain_optimizer, lr_factor(step, self._total_steps, self._config))
        if self._on_progress is not None:
            self._on_progress(step / self._total_steps)
        values, mean_note = self._backward(batches, num_batches, step, note)
        where = (epoch, step)
        self._check_finite("loss", values["loss"], values, where)
        max_norm = self._config.max_grad_norm or math.inf
        norm = float(self._accelerator.clip_grad_norm_(self._parameters, max_norm))
        if self._accelerator.scaler is None:
            self._check_finite("gradient", norm, values, where)
        self._optimizer.step()
        self._optimizer.zero_grad()
        values["grad_norm"] = norm
        self._count_skipped(values, where)
        return values, mean_note

    def _backward(
        self, batches: Iterator[dict[str, Tensor]], num_batches: int, step: int, note: float
    ) -> tuple[dict[str, float], float]:
        sums: dict[str, Tensor] = {}
        rank = self._accelerator.process_index
        for number in range(num_batches):
            batch = next(batches)
            # After loading, which may draw from the global generators.
            seed_everything(derive_seed(self._seed, step, rank, number, stream=_STREAM))
            is_last = number == num_batches - 1
            # Gradients travel between processes once per update.
            local: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
            if not is_last:
                local = self._accelerator.no_sync(self._forward)
            with local:
                terms = self._forward(batch)
                self._accelerator.backward(terms["loss"] / num_batches)
            for name, term in terms.items():
                part = term.detach().float() / num_batches
                sums[name] = sums[name] + part if name in sums else part
        sums["\0note"] = torch.tensor(note, device=self._accelerator.device)
        means = mean_over_processes(self._accelerator, sums)
        return means, means.pop("\0note")

    def _check_finite(
        self, what: str, value: float, values: dict[str, float], where: tuple[int, int]
    ) -> None:
        if math.isfinite(value):
            return
        epoch, step = where
        terms = ", ".join(f"{name} {term:.4g}" for name, term in values.items())
        raise RecipeError(
            f"The {what} became {value} in epoch {epoch + 1}, update {step + 1} ({terms}; "
            f"learning rate {self.lr(step):.3g}). Try a smaller lr, a warm-up (warmup_frac=0.05), "
            "max_grad_norm=1, or precision=float32."
        )

    def _count_skipped(self, values: dict[str, float], where: tuple[int, int]) -> None:
        """Log the updates that float16 leaves out while it looks for its scale."""
        if self._accelerator.scaler is None:
            return
        skipped = bool(self._optimizer.step_was_skipped)
        values["skipped"] = float(skipped)
        if skipped:
            # An infinite norm has no place in the mean of the epoch.
            values["grad_norm"] = 0.0
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            self._check_finite("float16 gradient", math.inf, values, where)
