import numpy as np
import pytest

from wsseg.kernels import dense_crf as crf
from wsseg.kernels.dense_crf import (
    PRESETS,
    CrfConfig,
    build_crf_lattices,
    clear_lattice_cache,
    dense_crf,
    likely_labels,
    unary_from_labels,
    unary_from_scores,
)

SMALL = CrfConfig(bilateral_sxy_px=15, bilateral_srgb=15)


def assert_close(found, expected):
    """The bars of the design: mean 1e-4, largest 2e-2, argmax on 99.9 % of the pixels."""
    difference = np.abs(found - expected)
    assert difference.mean() <= 1e-4
    assert difference.max() <= 2e-2
    assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.999


@pytest.mark.parametrize("preset", ["psa", "irn", "deeplab"])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_photographs_match_the_float64_reference(reference, photo, make_scores, name, preset):
    image = photo(name)
    unary = unary_from_scores(make_scores(4, image.shape[:2]))
    expected = reference.lattice_marginals(image, unary, PRESETS[preset])
    found = dense_crf(image, unary, config=PRESETS[preset])
    assert_close(found, expected)
    # Far below the bars: the simplex search is in float64.
    assert np.abs(found - expected).mean() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("num_labels", [3, 21])
def test_a_full_size_photograph_matches_the_float64_reference(
    reference, photo, make_scores, num_labels
):
    image = photo("coffee", (500, 375))
    unary = unary_from_scores(make_scores(num_labels, (375, 500)))
    assert_close(dense_crf(image, unary), reference.lattice_marginals(image, unary, PRESETS["psa"]))


@pytest.mark.parametrize("num_labels", [2, 4, 7, 12, 21, 30, 33, 81])
def test_any_number_of_labels_matches_the_float64_reference(
    reference, make_image, make_scores, num_labels
):
    shape = (19, 23)
    image = make_image(shape, noise=60)
    scores = make_scores(num_labels, shape) + np.random.default_rng(0).random(
        (num_labels, *shape), np.float32
    )
    unary = unary_from_scores(scores / 2)
    assert_close(
        dense_crf(image, unary, config=SMALL), reference.lattice_marginals(image, unary, SMALL)
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 13), (11, 1), (2, 2), (5, 64)])
def test_any_size_matches_the_float64_reference(reference, make_image, make_scores, shape):
    image, unary = make_image(shape), unary_from_scores(make_scores(3, shape))
    assert_close(dense_crf(image, unary), reference.lattice_marginals(image, unary, PRESETS["psa"]))


def test_lattice_resembles_exact_mean_field(reference, photo, make_scores):
    image = photo("chelsea", (32, 24))
    unary = unary_from_scores(make_scores(3, (24, 32)))
    config = CrfConfig(bilateral_sxy_px=20, bilateral_srgb=20)
    exact = reference.exact_marginals(image, unary, config)
    found = dense_crf(image, unary, config=config)
    assert np.abs(found - exact).mean() < 0.05
    assert (found.argmax(axis=0) == exact.argmax(axis=0)).mean() > 0.93


def test_marginals_sum_to_one_and_follow_the_edge_of_the_image():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200
    scores = np.full((2, 40, 60), 0.5, np.float32)
    # Evidence for label 1 in a small spot right of the edge, for label 0 left of it.
    scores[1, 15:25, 40:50] = 0.95
    scores[0, 15:25, 10:20] = 0.95
    marginals = dense_crf(image, unary_from_scores(scores))
    np.testing.assert_allclose(marginals.sum(axis=0), 1, atol=1e-5)
    labels = marginals.argmax(axis=0)
    assert (labels[:, :30] == 0).all()
    assert (labels[:, 30:] == 1).all()


def test_no_iterations_give_the_softmax_of_the_energies(make_image):
    unary = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    found = dense_crf(make_image((6, 7)), unary, config=CrfConfig(iterations=0))
    expected = np.exp(-unary) / np.exp(-unary).sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_kernels_of_weight_zero_change_nothing(make_image):
    unary = np.random.default_rng(0).normal(size=(3, 6, 7)).astype(np.float32)
    off = CrfConfig(gauss_compat=0, bilateral_compat=0)
    found = dense_crf(make_image((6, 7)), unary, config=off)
    np.testing.assert_allclose(found, np.exp(-unary) / np.exp(-unary).sum(axis=0), rtol=1e-5)


def test_one_label_is_certain_everywhere(make_image):
    found = dense_crf(make_image((4, 5)), np.zeros((1, 4, 5)))
    np.testing.assert_array_equal(found, np.ones((1, 4, 5), np.float32))


def test_calls_and_threads_give_the_same_bits_and_inputs_stay(make_image, make_scores):
    shape = (330, 300)
    image, unary = make_image(shape), unary_from_scores(make_scores(3, shape))
    image_before, unary_before = image.copy(), unary.copy()
    config = CrfConfig(iterations=3, bilateral_sxy_px=50, bilateral_srgb=5)
    results = [dense_crf(image, unary, config=config, threads=n) for n in (1, 1, 2, 5, None)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(unary, unary_before)


def test_several_crfs_share_a_lattice(make_image, make_scores):
    shape = (30, 40)
    image = make_image(shape)
    lattice = build_crf_lattices(image, SMALL)
    for seed, compat in ((0, 10), (1, 4), (0, 10)):
        config = SMALL.model_copy(update={"bilateral_compat": compat, "iterations": 3 + seed})
        unary = unary_from_scores(make_scores(3 + 4 * seed, shape, seed))
        shared = dense_crf(image, unary, config=config, lattice=lattice)
        np.testing.assert_array_equal(shared, dense_crf(image, unary, config=config))


def test_gaussian_lattice_is_kept_per_size_and_sigma_and_the_number_is_bounded(make_image):
    clear_lattice_cache()
    first = build_crf_lattices(make_image((20, 30), seed=1), SMALL).gaussian
    assert build_crf_lattices(make_image((20, 30), seed=2), SMALL).gaussian is first
    other = SMALL.model_copy(update={"gauss_sxy_px": 2.0})
    assert build_crf_lattices(make_image((20, 30)), other).gaussian is not first
    assert build_crf_lattices(make_image((30, 20)), SMALL).gaussian is not first
    for width in range(5, 25):
        build_crf_lattices(make_image((3, width)), SMALL)
    assert build_crf_lattices(make_image((20, 30)), SMALL).gaussian is not first


def test_lattices_larger_than_the_bound_are_not_kept(make_image, monkeypatch):
    from wsseg.kernels import dense_crf_lattices

    clear_lattice_cache()
    monkeypatch.setattr(dense_crf_lattices, "_GAUSSIAN_CACHE_BYTES", 1000)
    first = build_crf_lattices(make_image((20, 30)), SMALL).gaussian
    assert build_crf_lattices(make_image((20, 30)), SMALL).gaussian is not first


def test_a_lattice_of_another_image_size_or_sigma_is_refused(make_image):
    lattice = build_crf_lattices(make_image((6, 8)), SMALL)
    with pytest.raises(ValueError, match=r"built for an image of \(6, 8\), this one has \(8, 6\)"):
        dense_crf(make_image((8, 6)), np.zeros((2, 8, 6)), config=SMALL, lattice=lattice)
    with pytest.raises(ValueError, match="built for sigmas"):
        dense_crf(make_image((6, 8)), np.zeros((2, 6, 8)), lattice=lattice)


def test_wrong_input_is_named(make_image):
    image = make_image((6, 8))
    with pytest.raises(ValueError, match=r"unary has shape \(2, 8, 6\); expected \(K, 6, 8\)"):
        dense_crf(image, np.zeros((2, 8, 6)))
    with pytest.raises(ValueError, match=r"type float64; expected \(H, W, 3\) uint8"):
        dense_crf(image / 255, np.zeros((2, 6, 8)))
    with pytest.raises(ValueError, match="prune_below is 1"):
        dense_crf(image, np.zeros((2, 6, 8)), prune_below=1)
    unary = np.zeros((3, 6, 8))
    unary[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="unary has 1 NaN values"):
        dense_crf(image, unary)


def test_infinite_energy_forbids_a_label(make_image):
    unary = np.zeros((3, 6, 8))
    unary[1] = np.inf
    unary[2, 0, 0] = np.inf
    marginals = dense_crf(make_image((6, 8)), unary)
    assert (marginals[1] == 0).all()
    assert marginals[2, 0, 0] == 0
    np.testing.assert_allclose(marginals.sum(axis=0), 1, atol=1e-5)


def test_a_constant_per_pixel_changes_nothing(make_image, make_scores):
    image, unary = make_image((12, 14)), unary_from_scores(make_scores(3, (12, 14)))
    shift = np.random.default_rng(0).normal(size=(12, 14))
    np.testing.assert_allclose(dense_crf(image, unary + shift), dense_crf(image, unary), atol=1e-5)


def test_labels_improbable_everywhere_can_be_left_out(make_image, make_scores):
    shape = (40, 50)
    image = make_image(shape)
    unary = unary_from_scores(make_scores(21, shape, rest=1e-4))
    full = dense_crf(image, unary, config=SMALL)
    pruned = dense_crf(image, unary, config=SMALL, prune_below=0.02)
    assert likely_labels(unary, 0.02).tolist() == [0, 1, 2, 3]
    assert (pruned[4:] == 0).all()
    np.testing.assert_allclose(pruned.sum(axis=0), 1, atol=1e-5)
    assert np.abs(pruned - full).max() < 2e-2
    assert (pruned.argmax(axis=0) == full.argmax(axis=0)).mean() > 0.999


def test_pruning_is_off_by_default_and_keeps_the_most_probable_label(make_image):
    unary = np.zeros((80, 6, 8))
    unary[7] = -0.1
    assert len(likely_labels(unary, 0.0)) == 80
    # No label of eighty equal ones reaches 2 %, but one has to stay.
    assert likely_labels(unary, 0.02).tolist() == [7]
    marginals = dense_crf(make_image((6, 8)), unary, prune_below=0.02)
    np.testing.assert_array_equal(marginals[7], np.ones((6, 8)))
    assert dense_crf(make_image((6, 8)), unary).max() < 1


def test_unary_from_scores_clips_at_1e_5():
    unary = unary_from_scores(np.array([[[0.0, 1.0, 0.5, 1e-9]]]))
    np.testing.assert_allclose(unary, [[[11.512925, 0, 0.6931472, 11.512925]]], rtol=1e-6)
    assert unary.dtype == np.float32


def test_unary_from_labels_shares_the_rest_among_the_others():
    unary = unary_from_labels(np.array([[0, 2]]), 3, gt_prob=0.7)
    np.testing.assert_allclose(
        np.exp(-unary), [[[0.7, 0.15]], [[0.15, 0.15]], [[0.15, 0.7]]], rtol=1e-5
    )
    np.testing.assert_array_equal(unary_from_labels(np.zeros((2, 2), int), 1), np.zeros((1, 2, 2)))


def test_unary_from_labels_names_wrong_input():
    with pytest.raises(ValueError, match="gt_prob is 1"):
        unary_from_labels(np.zeros((2, 2), int), 3, gt_prob=1)
    with pytest.raises(ValueError, match="values from 0 to 255; expected 0 to 2"):
        unary_from_labels(np.array([[0, 255]]), 3)
    with pytest.raises(ValueError, match=r"labels has shape \(4,\)"):
        unary_from_labels(np.zeros(4, int), 3)


def test_the_public_names_exist():
    assert all(hasattr(crf, name) for name in crf.__all__)
