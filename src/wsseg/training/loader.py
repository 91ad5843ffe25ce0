"""The processes that load batches while the network trains."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from wsseg import console
from wsseg.errors import DataError, WssegError
from wsseg.training.config import TrainingConfig
from wsseg.training.data import (
    BadItem,
    BatchPlan,
    EpochBatches,
    ItemDataset,
    TrainingData,
    collate,
    drawing_weights,
)

_MAX_AUTO_WORKERS = 8
_TINY_NUM_BATCHES = 4


def choose_num_workers(config: TrainingConfig, plan: BatchPlan) -> int:
    """Choose how many processes load items for this training process.

    Args:
        config: ``num_workers``, a number or ``auto``.
        plan: For the size of the data.

    Returns:
        For ``auto`` one less than the cores that each training process has, at most 8 and at most
        one per batch of an epoch; 0 when an epoch has fewer than 4 batches.
    """
    if config.num_workers != "auto":
        return config.num_workers
    if plan.batches_per_epoch < _TINY_NUM_BATCHES:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    spare = (cores or 1) // local_processes - 1
    chosen = max(0, min(spare, _MAX_AUTO_WORKERS, plan.batches_per_epoch))
    console.once(f"num_workers: {chosen} (of {cores} cores)")
    return chosen


class BatchLoader:
    """Loads this process's batches of an epoch, in loading processes where wanted.

    Args:
        data: The items.
        plan: How epochs are cut.
        config: Workers and class-balanced drawing.
        seed: The run's seed.
        device: Where the batches go.

    Raises:
        RecipeError: When class-balanced drawing is on but the data has no weights.
        DataError: When those weights are wrong.
    """

    def __init__(
        self,
        data: TrainingData,
        plan: BatchPlan,
        config: TrainingConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._sampler = EpochBatches(plan, seed, drawing_weights(data, config))
        self._device = device
        self._channels_last = config.channels_last
        num_workers = choose_num_workers(config, plan)
        self._loader = torch.utils.data.DataLoader(
            ItemDataset(data, seed),
            batch_sampler=self._sampler,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            # The loader draws a seed for its workers; the items do not use it, and the global
            # generator must not feel it.
            generator=torch.Generator().manual_seed(seed),
        )

    def batches(self, epoch: int, first: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """Load the batches of an epoch.

        Args:
            epoch: From 0.
            first: The batch to begin with, from 0.

        Yields:
            Tensors (N, ...) by name, on the device.

        Raises:
            DataError: When an item cannot be made, naming it.
            WssegError: When a loading process was killed.
        """
        self._sampler.set(epoch, first)
        loaded = self._start()
        while True:
            try:
                batch = next(loaded)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not _is_worker_death(error):
                    raise
                raise WssegError(
                    "A process that loads training items was killed, probably because the memory "
                    "is full. Set num_workers=0 or a smaller batch_size; the training continues "
                    "from its last checkpoint."
                ) from error
            if isinstance(batch, BadItem):
                raise DataError(f"A training item cannot be used: {batch.problem}")
            yield {name: self._placed(tensor) for name, tensor in batch.items()}

    def _start(self) -> Iterator[dict[str, Tensor] | BadItem]:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking while threads run; the loading processes only compute
            # items and use none of those threads.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.*", DeprecationWarning)
            return iter(self._loader)

    def _placed(self, tensor: Tensor) -> Tensor:
        placed = tensor.to(self._device, non_blocking=True)
        if self._channels_last and placed.ndim == 4 and placed.is_floating_point():
            return placed.contiguous(memory_format=torch.channels_last)
        return placed


def _is_worker_death(error: Exception) -> bool:
    """Tell a killed loading process from an error that an item raised in one."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    return not str(error).startswith("Caught ")
