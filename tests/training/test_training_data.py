from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.errors import DataError, RecipeError
from wsseg.training.config import TrainingConfig
from wsseg.training.data import (
    BadItem,
    BatchPlan,
    Draw,
    EpochBatches,
    ItemDataset,
    collate,
    drawing_weights,
    epoch_order,
)


class Noise:
    """Items that are nothing but the numbers their generator gives."""

    def __init__(self, num_items=10):
        self.num_items = num_items

    def __len__(self):
        return self.num_items

    def item(self, index, rng):
        if index == 7:
            raise DataError("a/b.png is broken")
        if index == 8:
            raise KeyError("bug")
        return {"noise": rng.random(2)}

    def sample_id(self, index):
        return f"name{index}"


def test_every_item_comes_once_per_epoch_in_another_order_each_time():
    orders = [epoch_order(30, 1, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == epoch_order(30, 1, 1).tolist()
    assert orders[1] != epoch_order(30, 2, 1).tolist()


def test_weighted_drawing_follows_the_weights():
    weights = np.array([0.0, 3.0, 1.0])
    drawn = np.concatenate([epoch_order(3, 0, epoch, weights) for epoch in range(400)])
    assert 0 not in drawn
    assert (drawn == 1).mean() == pytest.approx(0.75, abs=0.04)


@given(
    num_items=st.integers(1, 40),
    share=st.integers(1, 5),
    processes=st.integers(1, 4),
    accumulate=st.integers(1, 3),
)
def test_processes_get_equal_shares_of_the_same_batches(num_items, share, processes, accumulate):
    size = share * processes
    order = epoch_order(num_items, 0, 0)
    plans = [BatchPlan(num_items, size, accumulate, processes, rank) for rank in range(processes)]
    shares = [plan.local_batches(order, 0) for plan in plans]
    plan = plans[0]
    assert {len(batches) for batches in shares} == {plan.batches_per_epoch}
    assert {len(batch) for batches in shares for batch in batches} == {plan.local_batch_size}
    whole = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    if num_items >= size:
        single = BatchPlan(num_items, size, accumulate).local_batches(order, 0)
        assert whole == single
    else:
        assert {draw.item for draw in whole[0]} == set(range(num_items))
    counted = [plan.batches_in_update(update) for update in range(plan.updates_per_epoch)]
    assert sum(counted) == plan.batches_per_epoch
    assert min(counted) >= 1


def test_items_left_over_are_dropped_and_tiny_data_makes_one_batch():
    assert BatchPlan(11, 4).batches_per_epoch == 2
    tiny = BatchPlan(3, 16)
    assert (tiny.batches_per_epoch, tiny.local_batch_size) == (1, 3)


def test_item_drawn_twice_is_counted_so_that_it_gets_other_noise():
    batches = BatchPlan(4, 4).local_batches(np.array([2, 2, 0, 2]), epoch=5)
    assert batches == [[Draw(5, 2, 0), Draw(5, 2, 1), Draw(5, 0, 0), Draw(5, 2, 2)]]
    dataset = ItemDataset(Noise(), seed=0)
    noises = {float(dataset[draw]["noise"][0]) for draw in batches[0]}
    assert len(noises) == 4


def test_item_depends_on_seed_epoch_and_index_only():
    first = ItemDataset(Noise(), seed=0)[Draw(1, 2, 0)]["noise"]
    assert np.array_equal(first, ItemDataset(Noise(), seed=0)[Draw(1, 2, 0)]["noise"])
    for seed, draw in [(1, Draw(1, 2, 0)), (0, Draw(2, 2, 0)), (0, Draw(1, 3, 0))]:
        assert not np.array_equal(first, ItemDataset(Noise(), seed=seed)[draw]["noise"])


def test_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(RecipeError, match="batch_size is 6, but there are 4 processes"):
        BatchPlan(10, 6, num_processes=4)


def test_empty_data_is_refused():
    with pytest.raises(DataError, match="nothing to train on"):
        BatchPlan(0, 6)


def test_epoch_can_begin_at_a_later_batch():
    batches = EpochBatches(BatchPlan(9, 2), seed=0)
    batches.set(3)
    whole = list(batches)
    batches.set(3, first=2)
    assert list(batches) == whole[2:]
    assert len(batches) == 2


def test_bad_data_becomes_a_message_that_names_the_item():
    bad = ItemDataset(Noise(), seed=0)[Draw(0, 7, 0)]
    assert bad == BadItem("item 7 (name7): a/b.png is broken")
    assert collate([{"noise": np.zeros(2)}, bad]) is bad


def test_bug_in_an_item_stays_a_bug_and_names_the_item():
    with pytest.raises(KeyError) as caught:
        ItemDataset(Noise(), seed=0)[Draw(0, 8, 0)]
    assert caught.value.__notes__ == ["while making training item 8 (name8), epoch 0"]


def test_collate_stacks_by_name_and_keeps_the_dtype():
    items = [{"mask": np.full((2, 3), k, np.uint8), "tag": np.float32(k)} for k in range(2)]
    batch = collate(items)
    assert batch["mask"].dtype == torch.uint8
    assert batch["mask"].shape == (2, 2, 3)
    assert batch["tag"].tolist() == [0.0, 1.0]


def test_items_of_unequal_shape_are_named():
    with pytest.raises(ValueError, match=r'Expected "image" with one shape.*in 2 of 2 items'):
        collate([{"image": np.zeros(2)}, {"image": np.zeros(3)}])
    with pytest.raises(ValueError, match="in 1 of 2 items"):
        collate([{"image": np.zeros(2)}, {}])


def test_balanced_drawing_needs_weights_from_the_data():
    on = TrainingConfig(class_balanced_sampling=True)
    assert drawing_weights(Noise(), TrainingConfig()) is None
    with pytest.raises(RecipeError, match="class_balanced_sampling is true"):
        drawing_weights(Noise(), on)


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1], [0, 0, 0], [1, np.nan, 1], [1, np.inf, 1]])
def test_weights_that_make_no_distribution_are_refused(weights):
    data = Noise(3)
    data.sample_weights = lambda: np.array(weights, float)
    with pytest.raises(DataError, match="Expected 3 finite, non-negative sample weights"):
        drawing_weights(data, TrainingConfig(class_balanced_sampling=True))
