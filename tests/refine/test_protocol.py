from __future__ import annotations

from pathlib import Path

import numpy as np

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.labels import ClassList
from wsseg.data.scores import Scores
from wsseg.refine.background import background_constant
from wsseg.refine.protocol import FitInputs, FittedRefiner, RefineContext
from wsseg.refine.threshold import threshold


def make_inputs(loaded: list[str]) -> FitInputs:
    folder = Path("/data")
    samples = tuple(
        Sample(name, folder / f"{name}.png", split=split)
        for name, split in [("a", "train"), ("b", "val"), ("c", "train")]
    )

    def load(sample: Sample) -> Scores:
        loaded.append(sample.id)
        return Scores(np.zeros((1, 2, 2), np.float32), np.zeros(1, np.uint8), (2, 2))

    return FitInputs(
        dataset=Dataset(folder, ClassList(("dent",)), samples),
        samples=samples,
        load=load,
        folder=folder,
        seed=3,
        device="cpu",
        allow_masks=True,
    )


def test_scores_are_read_one_at_a_time_and_can_be_read_again():
    loaded: list[str] = []
    inputs = make_inputs(loaded)
    first = iter(inputs)
    assert next(first)[0].id == "a"
    assert loaded == ["a"]
    assert [sample.id for sample, _ in inputs] == ["a", "b", "c"]
    assert [sample.id for sample, _ in inputs] == ["a", "b", "c"]


def test_a_split_keeps_everything_but_the_other_samples():
    inputs = make_inputs([])
    train = inputs.split("train")
    assert [sample.id for sample in train.samples] == ["a", "c"]
    assert len(train) == 2
    assert (train.seed, train.allow_masks, train.folder) == (3, True, inputs.folder)
    assert train.dataset is inputs.dataset


def test_only_refiners_that_look_at_the_data_set_are_fitted():
    assert isinstance(threshold, FittedRefiner)
    assert not isinstance(background_constant, FittedRefiner)


def test_two_contexts_share_nothing():
    first, second = RefineContext(), RefineContext()
    first.cache["lattice"] = 1
    first.state["threshold"] = 0.5
    assert second.cache == {}
    assert second.state == {}
