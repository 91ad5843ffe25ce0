"""From training items to batches: a deterministic order, equal shares, loading processes.

Which items an update sees, and how each is augmented, depends on the seed and the epoch alone;
neither the number of loading processes nor that of training processes changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsseg.errors import DataError, RecipeError
from wsseg.training.config import TrainingConfig
from wsseg.training.seeds import generator

_ORDER_STREAM = 1
_ITEM_STREAM = 2


class TrainingData(Protocol):
    """Items to train on.

    Two optional methods: ``sample_weights()`` gives (n,) non-negative numbers for class-balanced
    drawing, ``sample_id(index)`` a name for messages. The loading processes work on copies made
    when training starts, so the data must not change meanwhile.
    """

    def __len__(self) -> int:
        """Count the items."""

    def item(self, index: int, rng: np.random.Generator) -> Mapping[str, NDArray[Any]]:
        """Make one item.

        Args:
            index: 0 to n - 1.
            rng: The only source of randomness to use, so that the item can be made again.

        Returns:
            Arrays by name; each name has the same shape and dtype in all items.
        """


class Draw(NamedTuple):
    """One item of an epoch: which it is, and how often the epoch had it before."""

    epoch: int
    item: int
    repeat: int


@dataclass(frozen=True)
class BatchPlan:
    """How an epoch is cut into batches and updates, and which share is this process's.

    Every batch is full: items left over at the end of an epoch wait for a later one (the order
    changes with the epoch). Data smaller than one batch makes one batch per epoch of all items,
    filled up by repeating some when there are several processes.

    Args:
        num_items: n.
        batch_size: Items per forward pass over all processes.
        accumulate_steps: Forward passes per update.
        num_processes: Training processes.
        rank: Which of them this is, from 0.

    Raises:
        RecipeError: When the batch cannot be shared equally.
        DataError: When there are no items.

    Example:
        >>> plan = BatchPlan(num_items=50, batch_size=16)
        >>> plan.batches_per_epoch, plan.updates_per_epoch
        (3, 3)
    """

    num_items: int
    batch_size: int
    accumulate_steps: int = 1
    num_processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.num_items < 1:
            raise DataError("There is nothing to train on: the training data has no items.")
        if self.batch_size % self.num_processes:
            raise RecipeError(
                f"batch_size is {self.batch_size}, but there are {self.num_processes} processes "
                "that must get equal shares. Set it to a multiple of their number."
            )

    @property
    def batches_per_epoch(self) -> int:
        """Forward passes of one epoch."""
        return max(1, self.num_items // self.batch_size)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of the weights in one epoch; the last may average fewer forward passes."""
        return -(-self.batches_per_epoch // self.accumulate_steps)

    @property
    def local_batch_size(self) -> int:
        """Items of one batch that this process computes."""
        return -(-min(self.batch_size, self.num_items) // self.num_processes)

    def batches_in_update(self, update: int) -> int:
        """Count the forward passes of one update of an epoch, numbered from 0."""
        first = update * self.accumulate_steps
        return min(self.accumulate_steps, self.batches_per_epoch - first)

    def local_batches(self, order: NDArray[np.int64], epoch: int) -> list[list[Draw]]:
        """Cut an epoch's order into this process's batches.

        Args:
            order: (n,) item indices.
            epoch: From 0.

        Returns:
            ``batches_per_epoch`` lists of ``local_batch_size`` draws.
        """
        share = self.local_batch_size
        size = share * self.num_processes
        draws = _count_repeats(np.resize(order, self.batches_per_epoch * size), epoch)
        starts = range(self.rank * share, len(draws), size)
        return [draws[start : start + share] for start in starts]


def _count_repeats(order: NDArray[np.int64], epoch: int) -> list[Draw]:
    seen: dict[int, int] = {}
    draws = []
    for index in order.tolist():
        draws.append(Draw(epoch, index, seen.get(index, 0)))
        seen[index] = seen.get(index, 0) + 1
    return draws


def epoch_order(
    num_items: int, seed: int, epoch: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Put the items of an epoch in order.

    Args:
        num_items: n.
        seed: The run's seed.
        epoch: From 0.
        weights: (n,) non-negative: draw n items with replacement, each in proportion to its
            weight. None: every item once.

    Returns:
        (n,) indices.

    Example:
        >>> sorted(epoch_order(4, seed=0, epoch=2).tolist())
        [0, 1, 2, 3]
    """
    rng = generator(seed, epoch, stream=_ORDER_STREAM)
    if weights is None:
        return rng.permutation(num_items)
    return rng.choice(num_items, size=num_items, replace=True, p=weights / weights.sum())


def drawing_weights(data: TrainingData, config: TrainingConfig) -> NDArray[np.float64] | None:
    """Read the weights of class-balanced drawing, or None where it is off.

    Raises:
        RecipeError: When it is on but the data has no weights.
        DataError: When the weights make no distribution over the items.
    """
    if not config.class_balanced_sampling:
        return None
    sample_weights = getattr(data, "sample_weights", None)
    if sample_weights is None:
        raise RecipeError(
            "class_balanced_sampling is true, but these training items have no classes to "
            "balance. Set it to false."
        )
    weights = np.asarray(sample_weights(), np.float64)
    is_valid = weights.shape == (len(data),) and bool((weights >= 0).all()) and weights.sum() > 0
    if not (is_valid and np.isfinite(weights.sum())):
        raise DataError(
            f"Expected {len(data)} finite, non-negative sample weights that are not all 0, but got "
            f"shape {weights.shape}, minimum {weights.min(initial=0)}, sum {weights.sum()}."
        )
    return weights


@dataclass(frozen=True)
class BadItem:
    """What went wrong with an item in a loading process, sent to the training process."""

    problem: str


class ItemDataset(torch.utils.data.Dataset[Any]):
    """Makes the item of a draw with the generator that belongs to it.

    Args:
        data: The items.
        seed: The run's seed.
    """

    def __init__(self, data: TrainingData, seed: int) -> None:
        self._data = data
        self._seed = seed

    def __getitem__(self, draw: Draw) -> Mapping[str, NDArray[Any]] | BadItem:
        rng = generator(self._seed, draw.epoch, draw.item, draw.repeat, stream=_ITEM_STREAM)
        try:
            return self._data.item(draw.item, rng)
        except DataError as error:
            return BadItem(f"{self._name(draw.item)}: {error}")
        except Exception as error:
            error.add_note(f"while making training {self._name(draw.item)}, epoch {draw.epoch}")
            raise

    def _name(self, index: int) -> str:
        sample_id = getattr(self._data, "sample_id", None)
        return f"item {index}" if sample_id is None else f"item {index} ({sample_id(index)})"


def collate(items: list[Mapping[str, NDArray[Any]] | BadItem]) -> dict[str, Tensor] | BadItem:
    """Stack items to a batch.

    Args:
        items: Arrays by name, or what went wrong.

    Returns:
        Tensors (N, ...) by name; or what went wrong with the first bad item.

    Raises:
        ValueError: When the items differ in names, shapes or dtypes.
    """
    good = []
    for item in items:
        if isinstance(item, BadItem):
            return item
        good.append(item)
    batch = {}
    for name in good[0]:
        arrays = [np.asarray(item[name]) for item in good if name in item]
        kinds = {(array.shape, array.dtype.str) for array in arrays}
        if len(arrays) < len(good) or len(kinds) > 1:
            raise ValueError(
                f'Expected "{name}" with one shape and dtype in all items of a batch, but got '
                f"{sorted(kinds)} in {len(arrays)} of {len(good)} items."
            )
        batch[name] = torch.from_numpy(np.stack(arrays))
    return batch


class EpochBatches(torch.utils.data.Sampler[list[Draw]]):
    """Gives the batches of the epoch that it was set to, from a chosen one on.

    Args:
        plan: How epochs are cut.
        seed: The run's seed.
        weights: For drawing with replacement, see `epoch_order`.
    """

    def __init__(
        self, plan: BatchPlan, seed: int, weights: NDArray[np.float64] | None = None
    ) -> None:
        self._plan, self._seed, self._weights = plan, seed, weights
        self._epoch, self._first = 0, 0

    def set(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch, and the batch to begin with, both from 0."""
        self._epoch, self._first = epoch, first

    def __iter__(self) -> Iterator[list[Draw]]:
        order = epoch_order(self._plan.num_items, self._seed, self._epoch, self._weights)
        yield from self._plan.local_batches(order, self._epoch)[self._first :]

    def __len__(self) -> int:
        return self._plan.batches_per_epoch - self._first
