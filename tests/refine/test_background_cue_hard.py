from __future__ import annotations

import itertools

import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.pseudo.masks import pseudo_mask
from wsseg.refine.background_cue_hard import BackgroundCueHard, background_cue_hard
from wsseg.refine.protocol import RefineContext


def refined(values, cue, **settings) -> np.ndarray:
    values = np.asarray(values, np.float32)[:, None]
    scores = Scores(values, np.array([0, 3, 8][: len(values)], np.uint8), (1, values.shape[2]))
    context = RefineContext(cue=np.asarray(cue, np.float32)[None])
    image = np.zeros((1, values.shape[2], 3), np.uint8)
    return pseudo_mask(
        background_cue_hard(image, scores, config=BackgroundCueHard(**settings), context=context)
    )[0]


def test_labels_where_both_agree_and_ignored_where_they_do_not():
    levels = [0.0, 0.1, 0.3, 0.9]
    pairs = list(itertools.product(levels, levels))
    cue, score = np.array(pairs).T
    cue[-1] = 1
    values = np.stack([np.full(16, 0.7), score, score / 2])
    expected = [
        {(True, True): 3, (False, False): 0}.get((c > 0.15, s >= 0.2), 255)
        for c, s in zip(cue, score, strict=True)
    ]
    assert refined(values, cue).tolist() == expected
    assert {0, 3, 255} == set(expected)


def test_the_larger_of_two_classes_wins_and_ties_are_open():
    values = [[0, 0, 0], [0.5, 0.5, 0.5], [0.4, 0.5, 0.9]]
    assert refined(values, [1, 1, 1]).tolist() == [3, 255, 8]
    assert refined(values, [1, 1, 1], min_margin=0.2).tolist() == [255, 255, 8]


def test_the_threshold_is_relative_to_the_maximum_of_the_map():
    values = [[0, 0, 0], [0.9, 0.9, 0.0]]
    assert refined(values, [0.4, 0.05, 0.05], min_cue=0.15).tolist() == [3, 255, 0]


@pytest.mark.parametrize("score", [0.0, 0.9])
def test_a_map_of_zeros_says_nothing(score):
    assert refined([[0.0], [score]], [0.0]).tolist() == [255]
