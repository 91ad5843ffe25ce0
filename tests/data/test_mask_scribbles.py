"""Scribbles from masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsseg.data.mask_scribbles import line_pixels, scribbles_from_mask
from wsseg.data.scenes import make_scene

STYLES = ("skeleton", "bezier")


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_inside(mask, scribbles):
    for line, class_id in zip(scribbles.lines, scribbles.class_ids, strict=True):
        drawn = mask[line_pixels(line, mask.shape)]
        assert (drawn == class_id).all()
        assert drawn.size > 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", ["parts", "instances", "cooccurrence", "defects"])
def test_scribbles_never_leave_their_class(style, family):
    for seed in range(4):
        scene = make_scene(family, seed, (80, 96))
        scribbles = scribbles_from_mask(
            scene.mask, rng=rng(seed), style=style, num_background=2, instances=scene.instances
        )
        assert_inside(scene.mask, scribbles)
        numbers = np.unique(scene.instances[scene.instances > 0])
        assert np.count_nonzero(scribbles.class_ids) == len(numbers)
        assert 0 in scribbles.class_ids


@settings(max_examples=40, deadline=None)
@given(
    mask=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 1, 2, 255]),
    ),
    style=st.sampled_from(STYLES),
)
def test_scribbles_stay_inside_ragged_masks(mask, style):
    scribbles = scribbles_from_mask(mask, rng=rng(), style=style, num_background=3)
    assert_inside(mask, scribbles)
    assert not (mask[np.isin(mask, [1, 2])].size and not np.count_nonzero(scribbles.class_ids))


def test_a_long_bar_is_drawn_along_its_middle():
    mask = np.zeros((21, 101), np.uint8)
    mask[5:16, 5:96] = 1
    scribbles = scribbles_from_mask(mask, rng=rng(), length_frac=1.0, num_background=0)
    line = scribbles.lines[0]
    assert np.ptp(line[:, 0]) > 70
    middle = line[(line[:, 0] > 15) & (line[:, 0] < 85)]
    assert np.abs(middle[:, 1] - 10.5).max(initial=0) <= 1


def test_length_fraction_shortens_the_line():
    mask = np.zeros((9, 201), np.uint8)
    mask[3:6, 1:200] = 1

    def length(frac):
        line = scribbles_from_mask(mask, rng=rng(), length_frac=frac, num_background=0).lines[0]
        return np.hypot(*np.diff(line, axis=0).T).sum()

    assert length(1.0) == pytest.approx(198, abs=6)
    assert length(0.5) == pytest.approx(99, abs=6)
    assert length(0.1) == pytest.approx(20, abs=4)


@pytest.mark.parametrize("style", STYLES)
def test_compact_objects_and_empty_images_get_more_than_a_dot(style):
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(x - 32, y - 32) < 20).astype(np.uint8)
    for mask, background in ((disc, 0), (np.zeros((64, 64), np.uint8), 1)):
        extents = []
        for seed in range(8):
            scribbles = scribbles_from_mask(
                mask, rng=rng(seed), style=style, num_background=background
            )
            assert len(scribbles) == 1
            extents.append(np.ptp(scribbles.lines[0], axis=0).max())
        assert np.median(extents) > 8


def test_a_single_pixel_gets_a_single_point():
    mask = np.zeros((5, 5), np.uint8)
    mask[3, 1] = 4
    scribbles = scribbles_from_mask(mask, rng=rng(), num_background=0)
    assert scribbles.lines[0].tolist() == [[1.5, 3.5]]
    assert scribbles.class_ids.tolist() == [4]


def test_background_lines_lie_on_the_largest_areas():
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 10] = 1
    mask[:, 30] = 255
    scribbles = scribbles_from_mask(mask, rng=rng(), num_background=2)
    starts = [
        line[0, 0] for line, c in zip(scribbles.lines, scribbles.class_ids, strict=True) if c == 0
    ]
    assert 10 < starts[0] < 30
    assert starts[1] < 10
    everything = scribbles_from_mask(mask, rng=rng(), num_background=9)
    assert np.count_nonzero(everything.class_ids == 0) == 3
