"""The one training loop: every trained stage of wsseg goes through `fit`.

It runs on accelerate, so the same call trains on a CPU, a GPU, or several processes under
``torchrun`` (see `wsseg.training.processes` for what changes there). A training that was killed at
any moment continues from its last checkpoint to the same weights as without the interruption, and
one that is finished is recognised and not repeated.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from wsseg import console
from wsseg.training.checkpoint import Position, Trained, load_weights, save_weights
from wsseg.training.config import TrainingConfig
from wsseg.training.data import BatchPlan, TrainingData
from wsseg.training.ema import WeightAverage
from wsseg.training.folder import TrainingFolder
from wsseg.training.loader import BatchLoader
from wsseg.training.optim import build_optimizer
from wsseg.training.processes import is_main_process, start_accelerator
from wsseg.training.seeds import derive_seed, deterministic, isolated_rng, seed_everything
from wsseg.training.update import Updater
from wsseg.training.validation import Monitor, Validate, run_validation

VERSION = 1
"""Raised when the same settings lead to other weights than before."""

Net = TypeVar("Net", bound=nn.Module)
OnEpoch = Callable[[dict[str, Any]], None]

_EPOCH_STREAM = 4


@dataclass(frozen=True)
class FitResult(Generic[Net]):
    """What a training came to.

    Args:
        module: The network with the kept weights, in evaluation mode, on its original device.
        weights_path: The file of the kept weights, for `load_weights`.
        kept: ``best`` or ``last``.
        epochs: Complete epochs; the last may have been cut by ``max_steps``.
        steps: Updates.
        best_epoch: The epoch with the best validation, from 1; None where nothing was monitored.
        best_value: The monitored value there, in its own sign.
        stopped_early: Whether the validation had stopped improving.
        was_done: Whether an earlier call had finished this very training.
    """

    module: Net
    weights_path: Path
    kept: str
    epochs: int
    steps: int
    best_epoch: int | None
    best_value: float | None
    stopped_early: bool
    was_done: bool


def fit(
    module: Net,
    data: TrainingData,
    config: TrainingConfig,
    out_dir: Path,
    *,
    seed: int,
    title: str,
    validate: Validate | None = None,
    monitor: str | None = None,
    on_epoch: OnEpoch | None = None,
    fingerprint: str = "",
) -> FitResult[Net]:
    """Train a network, continue its training, or find it trained.

    Args:
        module: The network, initialised by the caller (who seeds before). It has
            ``loss(batch) -> dict`` of single numbers with their total as ``loss``, and may have
            ``parameter_groups(config)``, ``head_parameters()``, and ``on_epoch_start(epoch)``,
            called with the epoch from 0. Its state must be in weights and buffers to survive an
            interruption.
        data: The items, see `TrainingData`.
        config: How to train.
        out_dir: Folder for checkpoints, weights and ``metrics.jsonl``; shared by all processes.
        seed: Seed of order, augmentation and dropout.
        title: What the progress bar says.
        validate: Called after every epoch, in every process, without gradients, with the network
            in evaluation mode and, with ``ema_decay``, the averaged weights. Returns numbers for
            the log; those of the first process count. It runs in float32 unless it asks for
            autocast itself.
        monitor: Which logged number tells the best epoch: ``"miou"`` for larger is better,
            ``"-val_loss"`` for smaller is better.
        on_epoch: Called in the first process after every epoch with the line of the log.
        fingerprint: Hash of what the weights depend on besides ``config`` and ``seed``: the data,
            the network. A folder with another fingerprint is emptied and the training starts over.

    Returns:
        The trained network and how it went.

    Raises:
        RecipeError: When the loss or the gradient stops being a finite number, or the settings
            contradict the data or the device.
        DataError: When an item cannot be made.
        OutputError: When a file cannot be written; the last checkpoint stays usable.
        ValueError: When the network breaks its part of the contract.
    """
    folder = _folder(config, out_dir, seed, monitor, fingerprint)
    device = next(module.parameters()).device
    if config.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    done = folder.read_done()
    if done is None:
        with isolated_rng(), deterministic(config.deterministic):
            hooks = _Hooks(validate, monitor, on_epoch)
            done = _Loop(module, data, config, folder, hooks=hooks, seed=seed).run(title)
        was_done = False
    else:
        console.info(f"{title}: already trained, {done['epochs']} epochs")
        if is_main_process():
            folder.drop_checkpoint()
        was_done = True
    weights_path = folder.weights_path(done["kept"])
    load_weights(weights_path, module)
    outcome = {k: v for k, v in done.items() if k != "fingerprint"}
    return FitResult(module.to(device).eval(), weights_path, was_done=was_done, **outcome)


def is_trained(
    config: TrainingConfig,
    out_dir: Path,
    *,
    seed: int,
    monitor: str | None = None,
    fingerprint: str = "",
) -> bool:
    """Tell whether `fit` would find a finished training and only load its weights.

    Args:
        config: How to train.
        out_dir: Folder of the training.
        seed: As for `fit`.
        monitor: As for `fit`.
        fingerprint: As for `fit`.
    """
    return _folder(config, out_dir, seed, monitor, fingerprint).read_done() is not None


def _folder(
    config: TrainingConfig, out_dir: Path, seed: int, monitor: str | None, fingerprint: str
) -> TrainingFolder:
    mark = config.result_fingerprint(fingerprint, str(seed), str(monitor), str(VERSION))
    return TrainingFolder(out_dir, mark)


@dataclass(frozen=True)
class _Hooks:
    validate: Validate | None
    monitor: str | None
    on_epoch: OnEpoch | None


class _Loop:
    """One training from its beginning or its checkpoint to its end."""

    def __init__(
        self,
        module: nn.Module,
        data: TrainingData,
        config: TrainingConfig,
        folder: TrainingFolder,
        *,
        hooks: _Hooks,
        seed: int,
    ) -> None:
        self.config, self.folder, self.hooks, self.seed = config, folder, hooks, seed
        self.monitor = Monitor(hooks.monitor, config.early_stop_patience_epochs)
        self.accelerator = start_accelerator(config.precision)
        device = self.accelerator.device
        self.plan = BatchPlan(
            len(data),
            config.batch_size,
            config.accumulate_steps,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        total = config.epochs * self.plan.updates_per_epoch
        self.total_steps = min(total, config.max_steps or total)
        self.loader = BatchLoader(data, self.plan, config, seed=seed, device=device)
        self.module = module.to(device)
        optimizer = build_optimizer(module, config)
        self.updater = Updater(
            self.accelerator, module, optimizer, config, total_steps=self.total_steps, seed=seed
        )
        # Only now do all processes hold the first one's weights.
        ema = WeightAverage(module, config.ema_decay) if config.ema_decay else None
        self.trained = Trained(module, optimizer, ema, self.accelerator.scaler)
        self.position = Position()
        self.saved_at = self.epoch_started = time.monotonic()

    def run(self, title: str) -> dict[str, Any]:
        """Train to the end and return what ``done.json`` says."""
        self._begin(title)
        try:
            with self._progress(title) as progress:
                while not self._is_over():
                    self._run_epoch(progress)
        except KeyboardInterrupt:
            console.warning(
                f"{title}: interrupted in epoch {self.position.epoch + 1}. The same command "
                "continues from the last checkpoint."
            )
            raise
        return self._end()

    def _is_over(self) -> bool:
        position = self.position
        return position.step >= self.total_steps or self.monitor.has_run_out(position)

    def _begin(self, title: str) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.prepare()
        self.accelerator.wait_for_everyone()
        self.position = self.folder.resume(self.trained)
        if not self.accelerator.is_main_process:
            return
        self.folder.cut_metrics(self.position)
        if self.position.step:
            console.info(
                f"{title}: continues after epoch {self.position.epoch}, update {self.position.step}"
            )
        if self.monitor.name is None:
            self._say_what_needs_validation(title)

    def _say_what_needs_validation(self, title: str) -> None:
        if self.config.keep == "best":
            console.info(f"{title}: nothing is validated, so the last weights are kept")
        if self.config.early_stop_patience_epochs is not None:
            console.info(f"{title}: nothing is validated, so training does not stop early")

    def _end(self) -> dict[str, Any]:
        position = self.position
        keeps_best = self.config.keep == "best" and position.best_epoch is not None
        best = position.best_value
        outcome = {
            "kept": "best" if keeps_best else "last",
            "epochs": position.epoch,
            "steps": position.step,
            "best_epoch": position.best_epoch,
            "best_value": None if best is None else best * self.monitor.sign,
            "stopped_early": position.step < self.total_steps,
        }
        if self.accelerator.is_main_process:
            self._save_weights("last")
            self.folder.write_done(outcome)
        self.accelerator.wait_for_everyone()
        return outcome

    def _run_epoch(self, progress: console.Progress) -> None:
        position = self.position
        on_epoch_start = getattr(self.module, "on_epoch_start", None)
        if on_epoch_start is not None:
            seed_everything(derive_seed(self.seed, position.epoch, stream=_EPOCH_STREAM))
            on_epoch_start(position.epoch)
        self.module.train()
        self.epoch_started = time.monotonic() - position.epoch_seconds
        first_step = position.step - position.epoch_step
        num_updates = min(self.plan.updates_per_epoch, self.total_steps - first_step)
        first_batch = position.epoch_step * self.config.accumulate_steps
        with contextlib.closing(self.loader.batches(position.epoch, first_batch)) as batches:
            while position.epoch_step < num_updates:
                values, checkpoint_due = self._update(batches)
                progress.set(
                    f"epoch {position.epoch + 1}/{self.config.epochs} loss {values['loss']:.4g}"
                )
                progress.advance()
                if checkpoint_due and position.epoch_step < num_updates:
                    position.epoch_seconds = time.monotonic() - self.epoch_started
                    self._save_checkpoint()
        self._finish_epoch()

    def _update(self, batches: Iterator[dict[str, Tensor]]) -> tuple[dict[str, float], bool]:
        position = self.position
        values, due = self.updater.update(
            batches,
            self.plan.batches_in_update(position.epoch_step),
            epoch=position.epoch,
            step=position.step,
            # Only the first process looks at the clock; the note tells the others.
            note=float(self._is_checkpoint_due()),
        )
        position.step += 1
        position.epoch_step += 1
        if self.trained.ema is not None:
            self.trained.ema.update(position.step)
        for name, value in values.items():
            position.sums[name] = position.sums.get(name, 0.0) + value
        return values, due > 0

    def _finish_epoch(self) -> None:
        position = self.position
        record: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "lr": self.updater.lr(position.step - 1),
            **{name: total / position.epoch_step for name, total in position.sums.items()},
        }
        if self.hooks.validate is not None:
            record |= run_validation(
                self.hooks.validate,
                self.module,
                self.trained.ema,
                self.accelerator,
                taken=[*record, "seconds"],
            )
        record["seconds"] = round(time.monotonic() - self.epoch_started, 3)
        is_best = self.monitor.note(record, position)
        position.epoch += 1
        position.epoch_step, position.sums, position.epoch_seconds = 0, {}, 0.0
        if self.accelerator.is_main_process:
            if is_best:
                self._save_weights("best")
            self.folder.log(record)
        self._save_checkpoint()
        if self.accelerator.is_main_process and self.hooks.on_epoch is not None:
            self.hooks.on_epoch(record)

    def _is_checkpoint_due(self) -> bool:
        every_s = self.config.checkpoint_every_s
        # A network that does something at the start of an epoch would do it twice.
        if every_s is None or hasattr(self.module, "on_epoch_start"):
            return False
        is_due = time.monotonic() - self.saved_at >= every_s
        return is_due and self.accelerator.is_main_process

    def _save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            self.folder.save(self.trained, self.position)
        self.saved_at = time.monotonic()

    def _save_weights(self, which: str) -> None:
        ema = self.trained.ema
        weights = self.module if ema is None else ema.tensors
        save_weights(self.folder.weights_path(which), weights)

    @contextlib.contextmanager
    def _progress(self, title: str) -> Iterator[console.Progress]:
        if not self.accelerator.is_main_process:
            yield _NoProgress()
            return
        with console.progress(self.total_steps, title, done=self.position.step) as progress:
            yield progress


class _NoProgress:
    """What the second and later processes report to."""

    def advance(self, count: int = 1) -> None:
        """Leave the count to the first process."""

    def set(self, text: str) -> None:
        """Leave the text to the first process."""
