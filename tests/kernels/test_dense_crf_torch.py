import numpy as np
import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.kernels import dense_crf as compiled
from wsseg.kernels import dense_crf_torch as on_torch
from wsseg.kernels.dense_crf import CrfConfig, unary_from_scores
from wsseg.kernels.permutohedral import build_lattice

SMALL = CrfConfig(bilateral_sxy_px=15, bilateral_srgb=15)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]


def run(image, unary, device="cpu", **options):
    pixels, energies = torch.from_numpy(image).to(device), torch.from_numpy(unary).to(device)
    marginals = on_torch.dense_crf(pixels, energies, **options)
    assert marginals.device.type == device
    return marginals.cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_labels", [2, 5, 81])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 29)])
def test_torch_equals_the_compiled_form(make_image, make_scores, shape, num_labels, device):
    image = make_image(shape)
    unary = unary_from_scores(make_scores(num_labels, shape))
    expected = compiled.dense_crf(image, unary, config=SMALL)
    np.testing.assert_allclose(run(image, unary, device, config=SMALL), expected, atol=2e-5)


@pytest.mark.parametrize("preset", ["psa", "irn", "deeplab"])
def test_torch_equals_the_compiled_form_on_a_photograph(photo, make_scores, preset):
    image = photo("astronaut")
    unary = unary_from_scores(make_scores(3, image.shape[:2]))
    config = compiled.PRESETS[preset]
    found = run(image, unary, config=config)
    np.testing.assert_allclose(found, compiled.dense_crf(image, unary, config=config), atol=1e-4)


def test_lattices_have_the_same_vertices_and_filter_the_same(make_image):
    image = make_image((21, 17))
    values = np.random.default_rng(0).random((4, 21, 17)).astype(np.float32)
    lattices = on_torch.build_crf_lattices(torch.from_numpy(image), SMALL)
    for ours, expected in (
        (lattices.gaussian, build_lattice((21, 17), 3.0)),
        (lattices.bilateral, build_lattice((21, 17), 15.0, image, 15.0)),
    ):
        assert ours.num_vertices == expected.num_vertices
        rows = ours.filter(torch.from_numpy(values).flatten(1).T.contiguous())
        np.testing.assert_allclose(
            rows.T.reshape(4, 21, 17).numpy(), expected.filter(values), atol=2e-6
        )


def test_pruning_shared_lattices_and_one_label_work_alike(make_image, make_scores):
    image = make_image((20, 24))
    unary = unary_from_scores(make_scores(21, (20, 24), rest=1e-4))
    lattice = on_torch.build_crf_lattices(torch.from_numpy(image), SMALL)
    found = run(image, unary, config=SMALL, lattice=lattice, prune_below=0.02)
    expected = compiled.dense_crf(image, unary, config=SMALL, prune_below=0.02)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert (found[4:] == 0).all()
    np.testing.assert_array_equal(run(image, unary[:1]), np.ones((1, 20, 24)))


def test_infinite_energy_forbids_a_label(make_image):
    unary = np.zeros((3, 6, 8), np.float32)
    unary[1] = np.inf
    assert (run(make_image((6, 8)), unary)[1] == 0).all()


def test_wrong_input_is_named(make_image):
    image = make_image((6, 8))
    with pytest.raises(ValueError, match=r"unary has shape \(2, 8, 6\)"):
        run(image, np.zeros((2, 8, 6)))
    with pytest.raises(ValueError, match="expected \\(H, W, 3\\) uint8"):
        run(image.astype(np.float32), np.zeros((2, 6, 8)))
    with pytest.raises(ValueError, match="prune_below is -1"):
        run(image, np.zeros((2, 6, 8)), prune_below=-1)
    with pytest.raises(ValueError, match="unary has 96 NaN values"):
        run(image, np.full((2, 6, 8), np.nan))
    lattice = on_torch.build_crf_lattices(torch.from_numpy(image), SMALL)
    with pytest.raises(ValueError, match="The lattice was built for"):
        run(image, np.zeros((2, 6, 8)), lattice=lattice)
    with pytest.raises(RecipeError, match="too small"):
        run(image, np.zeros((2, 6, 8)), config=CrfConfig(bilateral_srgb=1e-6))
