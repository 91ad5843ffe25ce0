from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.refine.background import (
    BackgroundConstant,
    BackgroundPower,
    background_constant,
    background_cue,
    background_power,
)
from wsseg.refine.protocol import RefineContext

IMAGE = np.zeros((2, 4, 3), np.uint8)


def make_scores() -> Scores:
    values = np.array(
        [[[0.9, 0.9]], [[0.0, 0.5]], [[0.2, 0.1]]],
        np.float32,
    )
    return Scores(values, np.array([0, 5, 2], np.uint8), (2, 4))


def test_constant_writes_the_number_and_nothing_else():
    scores = make_scores()
    refined = background_constant(IMAGE, scores, config=BackgroundConstant(value=0.25))
    np.testing.assert_array_equal(refined.values[0], [[0.25, 0.25]])
    np.testing.assert_array_equal(refined.values[1:], scores.values[1:])


def test_power_raises_the_complement_of_the_strongest_class():
    refined = background_power(IMAGE, make_scores(), config=BackgroundPower(alpha=3))
    np.testing.assert_allclose(refined.values[0], [[0.8**3, 0.5**3]], rtol=1e-6)


def test_a_small_exponent_gives_more_background():
    low, high = (
        background_power(IMAGE, make_scores(), config=BackgroundPower(alpha=alpha)).values[0]
        for alpha in (4, 32)
    )
    assert (low > high).all()


def test_cue_is_complemented_at_full_size():
    cue = np.array([[0, 0.25, 0.5, 1], [1, 1, 0, 0]])
    scores = make_scores()
    refined = background_cue(IMAGE, scores, context=RefineContext(cue=cue))
    np.testing.assert_allclose(refined.values[0], 1 - cue, atol=1e-7)
    np.testing.assert_array_equal(refined.values[1:], scores.resized()[1:])


def test_a_two_valued_cue_is_taken_too():
    cue = np.array([[True, False, True, True], [True, True, False, False]])
    refined = background_cue(IMAGE, make_scores(), context=RefineContext(cue=cue))
    np.testing.assert_array_equal(refined.values[0], (~cue).astype(np.float32))


def test_a_missing_cue_names_the_image_and_the_other_rules():
    context = RefineContext(sample_id="line2/part")
    with pytest.raises(DataError, match=r'image "line2/part" and got none.*background_constant'):
        background_cue(IMAGE, make_scores(), context=context)
    with pytest.raises(DataError, match="needs a saliency cue and got none"):
        background_cue(IMAGE, make_scores())


@pytest.mark.parametrize(
    ("cue", "message"),
    [
        (np.zeros((4, 2)), r"shape \(4, 2\); expected the image size \(2, 4\)"),
        (np.zeros((2, 4), np.uint8), "type uint8.*Divide 8-bit saliency maps by 255"),
        (np.full((2, 4), 1.5), r"from 1\.5 to 1\.5; expected \[0, 1\]"),
        (np.full((2, 4), np.nan), r"expected \[0, 1\]"),
    ],
)
def test_a_cue_of_another_shape_type_or_range_is_refused(cue, message):
    with pytest.raises(DataError, match=message):
        background_cue(IMAGE, make_scores(), context=RefineContext(cue=cue))


@pytest.mark.parametrize("settings", [{"value": -0.1}, {"value": 1.1}, {"valeu": 0.2}])
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(ValidationError):
        BackgroundConstant(**settings)


def test_an_exponent_of_zero_is_refused():
    with pytest.raises(ValidationError):
        BackgroundPower(alpha=0)
