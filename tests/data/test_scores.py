import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.errors import DataError


def make_scores(shape=(2, 3, 4), size=(12, 16), class_ids=None, seed=0):
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    ids = np.arange(shape[0]) if class_ids is None else class_ids
    return Scores(values, np.asarray(ids, dtype=np.uint8), size)


def bilinear(small, size):
    """Bilinear interpolation with half-pixel centres, in float64, one axis after the other."""

    def matrix(source, target):
        weights = np.zeros((target, source))
        for i in range(target):
            centre = np.clip((i + 0.5) * source / target - 0.5, 0, source - 1)
            left = min(int(centre), max(source - 2, 0))
            weights[i, left] += 1 - (centre - left)
            weights[i, min(left + 1, source - 1)] += centre - left
        return weights

    rows, columns = matrix(small.shape[0], size[0]), matrix(small.shape[1], size[1])
    return rows @ small.astype(np.float64) @ columns.T


@pytest.mark.parametrize(("shape", "size"), [((2, 3, 4), (12, 17)), ((3, 1, 1), (5, 2))])
def test_resized_matches_bilinear_interpolation_in_float64(shape, size):
    scores = make_scores(shape, size)
    expected = np.stack([bilinear(row, size) for row in scores.values])
    resized = scores.resized()
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=1e-6)


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30)
)
def test_resized_stays_between_smallest_and_largest_value(k, h, w, height, width):
    scores = make_scores((k, h, w), (height, width))
    resized = scores.resized()
    assert resized.shape == (k, height, width)
    assert resized.min() >= scores.values.min() - 1e-6
    assert resized.max() <= min(1.0, scores.values.max() + 1e-6)


def test_resized_at_full_size_is_a_copy():
    scores = make_scores((2, 3, 4), (3, 4))
    resized = scores.resized()
    np.testing.assert_array_equal(resized, scores.values)
    resized[:] = 0
    assert scores.values.max() > 0


def test_with_background_replaces_row_zero_only():
    scores = make_scores()
    row0 = np.full((3, 4), 0.25, np.float32)
    changed = scores.with_background(row0)
    np.testing.assert_array_equal(changed.values[0], row0)
    np.testing.assert_array_equal(changed.values[1:], scores.values[1:])
    assert not np.array_equal(scores.values[0], row0)


def test_with_background_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\(3, 4\), got \(12, 16\)"):
        make_scores().with_background(np.zeros((12, 16), np.float32))


@pytest.mark.parametrize(
    ("values", "class_ids", "size", "message"),
    [
        (np.zeros((1, 2, 2)), [0], (2, 2), "float32 array, got float64"),
        ([[0.0]], [0], (2, 2), "float32 array, got list"),
        (np.zeros((2, 2), np.float32), [0], (2, 2), r"\(K, h, w\)"),
        (np.zeros((1, 0, 2), np.float32), [0], (2, 2), "none 0"),
        (np.full((1, 2, 2), 1.5, np.float32), [0], (2, 2), r"\[0, 1\], got 1.5"),
        (np.full((1, 2, 2), -0.5, np.float32), [0], (2, 2), r"\[0, 1\], got -0.5"),
        (np.full((1, 2, 2), np.nan, np.float32), [0], (2, 2), "nan"),
        (np.zeros((2, 2, 2), np.float32), [0], (2, 2), r"shape \(2,\)"),
        (np.zeros((2, 2, 2), np.float32), [1, 2], (2, 2), "start with 0"),
        (np.zeros((3, 2, 2), np.float32), [0, 4, 4], (2, 2), "each class once"),
        (np.zeros((2, 2, 2), np.float32), [0, 255], (2, 2), "without 255"),
        (np.zeros((1, 2, 2), np.float32), [0], (0, 2), "at least 1"),
    ],
)
def test_wrong_arrays_are_refused_with_the_value_seen(values, class_ids, size, message):
    with pytest.raises(ValueError, match=message):
        Scores(values, np.asarray(class_ids, dtype=np.uint8), size)


def test_class_ids_must_be_uint8():
    with pytest.raises(ValueError, match="uint8 array, got int64"):
        Scores(np.zeros((1, 2, 2), np.float32), np.array([0]), (2, 2))


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8)),
    size=st.tuples(st.integers(1, 40_000), st.integers(1, 40_000)),
)
@pytest.mark.parametrize(("dtype", "error"), [("uint8", 1 / 510 + 1e-6), ("float16", 2**-12)])
def test_round_trip_keeps_everything_within_the_stated_error(
    tmp_path_factory, dtype, error, seed, shape, size
):
    ids = [0, *np.random.default_rng(seed).choice(np.arange(1, 255), shape[0] - 1, replace=False)]
    scores = make_scores(shape, size, ids, seed)
    path = tmp_path_factory.mktemp("scores") / "부품 1.npz"
    save_scores(path, scores, dtype=dtype)
    back = load_scores(path)
    assert back.size == scores.size
    np.testing.assert_array_equal(back.class_ids, scores.class_ids)
    assert np.abs(back.values - scores.values).max() <= error


def test_second_round_trip_changes_nothing(tmp_path):
    path = tmp_path / "a.npz"
    save_scores(path, make_scores())
    once = load_scores(path)
    save_scores(path, once)
    np.testing.assert_array_equal(load_scores(path).values, once.values)


def test_same_scores_give_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_scores(tmp_path / name, make_scores())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_zero_and_one_survive_exactly(tmp_path):
    values = np.array([[[0.0, 1.0]]], np.float32)
    for dtype in ("uint8", "float16"):
        save_scores(tmp_path / "a.npz", Scores(values, np.zeros(1, np.uint8), (1, 2)), dtype)
        np.testing.assert_array_equal(load_scores(tmp_path / "a.npz").values, values)


def test_voc_train_aug_fits_into_half_a_gigabyte(tmp_path):
    # 10 582 images, 1.5 classes on average, stride 4 at 500 x 375: random noise, which does not
    # compress, is the worst case for the classes and for a background row that is already set.
    sizes = []
    for classes in (1, 2):
        save_scores(tmp_path / "a.npz", make_scores((1 + classes, 94, 125), (375, 500)))
        sizes.append((tmp_path / "a.npz").stat().st_size)
    assert np.mean(sizes) * 10_582 <= 0.5e9


def test_unknown_storage_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match='"float64"'):
        save_scores(tmp_path / "a.npz", make_scores(), dtype="float64")


def test_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.npz: no such file"):
        load_scores(tmp_path / "nothing.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_damaged_file_is_a_data_error_that_names_it(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not a valid Scores file .* Delete it"):
        load_scores(tmp_path / "a.npz")


def test_truncated_file_is_a_data_error(tmp_path):
    path = tmp_path / "a.npz"
    save_scores(path, make_scores((3, 20, 20)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a\.npz"):
        load_scores(path)


def test_pickled_content_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", values=np.array([object()]), class_ids=0, size=0)
    with pytest.raises(DataError, match="not a valid Scores file"):
        load_scores(tmp_path / "a.npz")


def test_other_dtype_is_refused(tmp_path):
    np.savez(
        tmp_path / "a.npz", values=np.zeros((1, 1, 1)), class_ids=np.zeros(1, np.uint8), size=[1, 1]
    )
    with pytest.raises(DataError, match="dtype float64"):
        load_scores(tmp_path / "a.npz")
