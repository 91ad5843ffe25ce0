import numpy as np
import pytest

from wsseg.data.scores import Scores
from wsseg.errors import DataError
from wsseg.kernels import dense_crf as kernel
from wsseg.refine import dense_crf as module
from wsseg.refine.dense_crf import DenseCrf, dense_crf
from wsseg.refine.protocol import RefineContext

SIZE = (32, 48)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 30, (*SIZE, 3))
    pixels[8:24, 12:36] += 150
    return pixels.astype(np.uint8)


@pytest.fixture
def scores():
    """A blurred, quarter-size map of the bright block, and a background rule's row 0."""
    values = np.zeros((3, 8, 12), np.float32)
    values[1, 2:6, 3:9] = 0.6
    values[1, 3:5, 4:8] = 0.9
    values[0] = 0.35
    values[2] = 0.05
    return Scores(values, np.array([0, 4, 9], np.uint8), SIZE)


def test_refined_outline_follows_the_object(image, scores):
    truth = np.zeros(SIZE, bool)
    truth[8:24, 12:36] = True
    before = scores.resized().argmax(axis=0) == 1
    refined = dense_crf(image, scores)
    after = refined.values.argmax(axis=0) == 1
    assert (after & truth).sum() / (after | truth).sum() > 0.97
    assert (before & truth).sum() / (before | truth).sum() < 0.97
    np.testing.assert_allclose(refined.values.sum(axis=0), 1, atol=1e-5)


def test_result_is_the_kernel_on_the_resized_scores(image, scores):
    config = DenseCrf(iterations=4, bilateral_sxy_px=20, bilateral_srgb=9, gauss_compat=2)
    expected = kernel.dense_crf(
        image, kernel.unary_from_scores(scores.resized()), config=config.kernel()
    )
    found = dense_crf(image, scores, config=config)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.size == SIZE
    assert found.class_ids.tolist() == [0, 4, 9]


def test_hard_labels_count_where_gt_prob_is_given(image, scores):
    config = DenseCrf(gt_prob=0.7, bilateral_sxy_px=50, bilateral_srgb=5)
    labels = scores.resized().argmax(axis=0)
    expected = kernel.dense_crf(
        image, kernel.unary_from_labels(labels, 3, 0.7), config=config.kernel()
    )
    np.testing.assert_allclose(dense_crf(image, scores, config=config).values, expected, atol=1e-6)


def test_scale_factor_divides_the_position_sigmas_only():
    config = DenseCrf(scale_factor=4, bilateral_srgb=7).kernel()
    assert config.sigmas == (0.75, 20.0, 7.0)
    assert DenseCrf().kernel() == kernel.PSA


def test_pruned_classes_get_no_evidence_but_keep_their_row(image, scores):
    values = scores.values.copy()
    values[2] = 1e-4
    faint = Scores(values, scores.class_ids, SIZE)
    refined = dense_crf(image, faint, config=DenseCrf(prune_below=0.02))
    assert (refined.values[2] == 0).all()
    assert refined.class_ids.tolist() == [0, 4, 9]


def test_lattices_are_reused_through_the_context(image, scores, monkeypatch):
    context = RefineContext()
    first = dense_crf(image, scores, context=context)
    monkeypatch.setattr(kernel, "build_crf_lattices", None)
    again = dense_crf(image, scores, config=DenseCrf(), context=context)
    np.testing.assert_array_equal(first.values, again.values)
    # Weights do not matter to the lattice.
    dense_crf(image, scores, config=DenseCrf(bilateral_compat=4, iterations=2), context=context)
    with pytest.raises(TypeError):
        dense_crf(image, scores, config=DenseCrf(bilateral_sxy_px=9), context=context)


def test_the_torch_form_gives_the_same_result(image, scores):
    expected = dense_crf(image, scores)
    numbered = dense_crf(image, scores, context=RefineContext(device="cpu:0"))
    np.testing.assert_array_equal(numbered.values, expected.values)
    # Any device but the CPU takes this way.
    unary = module._energies(scores, DenseCrf())
    context = RefineContext(device="cpu")
    found = module._on_device(image, unary, DenseCrf(), context)
    np.testing.assert_allclose(found, expected.values, atol=2e-5)
    np.testing.assert_array_equal(module._on_device(image, unary, DenseCrf(), context), found)
    assert len(context.cache) == 1


def test_an_image_without_classes_is_background(image):
    scores = Scores(np.zeros((1, 8, 12), np.float32), np.array([0], np.uint8), SIZE)
    np.testing.assert_array_equal(dense_crf(image, scores).values, np.ones((1, 8, 12)))


def test_an_image_of_another_size_is_refused(scores):
    with pytest.raises(DataError, match="made for 48 x 32 px"):
        dense_crf(np.zeros((48, 32, 3), np.uint8), scores)
