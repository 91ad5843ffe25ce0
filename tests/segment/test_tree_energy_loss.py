"""Tests of wsseg.segment.losses.tree_energy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.data.colour import normalise
from wsseg.errors import RecipeError
from wsseg.kernels.tree_filter import spanning_tree
from wsseg.segment.config import Smp
from wsseg.segment.loss_config import LossConfig
from wsseg.segment.losses.tree_energy import (
    TreeFilter,
    features_on_grid,
    filtered,
    tree_energy,
)
from wsseg.segment.task import SegmenterTask, smp
from wsseg.segment.term_config import TreeEnergyConfig

CONFIG = TreeEnergyConfig(grid_px=64, sigma=0.05)


def _exact_filter(values: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Filter (n, k) by walking every path of the tree of a guide (h, w, c), in float64."""
    tree = spanning_tree(guide)
    flat = guide.reshape(len(values), -1)
    weight = np.exp(-((flat - flat[tree.parents]) ** 2).sum(1))
    above = [tuple(_to_root(tree.parents, node)) for node in range(len(values))]
    result = np.zeros_like(values)
    for i, up_i in enumerate(above):
        total = 0.0
        for j, up_j in enumerate(above):
            edges = set(up_i) ^ set(up_j)
            tie = np.prod([weight[edge] for edge in edges]) if edges else 1.0
            result[i] += tie * values[j]
            total += tie
        result[i] /= total
    return result


def _to_root(parents: np.ndarray, node: int) -> list[int]:
    """Name the edges from a node to the root by their lower ends."""
    found = []
    while parents[node] != node:
        found.append(node)
        node = int(parents[node])
    return found


def _case(height: int = 5, width: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    labels = np.full((2, height, width), 255, np.uint8)
    labels[0, 2, 3], labels[1, 0, 0] = 1, 0
    logits = rng.normal(size=(2, 3, height, width)).astype(np.float32)
    batch = {
        "image": torch.from_numpy(np.stack([normalise(image) for image in images])),
        "mask": torch.from_numpy(labels),
    }
    return images, labels, torch.from_numpy(logits), batch


@pytest.mark.parametrize("with_features", [False, True])
def test_loss_is_that_of_all_paths_written_out(with_features: bool):
    images, labels, logits, batch = _case()
    features = torch.from_numpy(np.random.default_rng(5).normal(0, 0.5, (2, 4, 5, 6)))
    p = logits.double().softmax(1).numpy()
    differences, count = 0.0, 0
    for n in range(2):
        flat = p[n].reshape(3, -1).T
        target = _exact_filter(flat, images[n] / 255 / CONFIG.sigma**0.5)
        if with_features:
            target = _exact_filter(target, features[n].movedim(0, -1).numpy())
        open_cells = labels[n].ravel() == 255
        differences += np.abs(flat - target).sum(1)[open_cells].sum()
        count += open_cells.sum()
    found = tree_energy(logits, batch, CONFIG, features if with_features else None)
    assert found.item() == pytest.approx(differences / count, abs=1e-6)


def test_gradients_of_probabilities_and_features_are_right():
    rng = np.random.default_rng(1)
    tree = spanning_tree(rng.random((3, 4, 2)))
    values = torch.from_numpy(rng.normal(size=(12, 2))).requires_grad_()
    weights = torch.from_numpy(rng.uniform(0.2, 0.9, 12)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: TreeFilter.apply(v, w, tree), (values, weights))
    # Through the affinity too; the choice of the edges is fixed by guides far from ties.
    planes = torch.from_numpy(rng.normal(size=(1, 2, 3, 3))).requires_grad_()
    guide = torch.from_numpy(rng.normal(size=(1, 2, 3, 3))).requires_grad_()
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda v, g: filtered(v, g, valid), (planes, guide))


def test_gradient_flows_through_both_sides_of_the_difference():
    _, _, logits, batch = _case()
    given = logits.clone().requires_grad_()
    tree_energy(given, batch, CONFIG).backward()
    step = 1e-2
    for index in [(0, 1, 2, 3), (1, 2, 4, 5), (0, 0, 0, 1)]:
        change = torch.zeros_like(logits)
        change[index] = step
        up, down = (tree_energy(logits + s * change, batch, CONFIG) for s in (1, -1))
        slope = ((up - down) / (2 * step)).item()
        assert given.grad[index].item() == pytest.approx(slope, abs=2e-4)
    # A labelled cell has no difference of its own, but others agree with it.
    assert given.grad[0, :, 2, 3].abs().sum() > 0


def test_padding_is_in_no_tree():
    _, _, logits, batch = _case(6, 8)
    batch["valid"] = torch.zeros(2, 6, 8, dtype=torch.bool)
    batch["valid"][:, 1:, :5] = True
    cut = {name: values[..., 1:, :5] for name, values in batch.items()}
    given = logits.clone().requires_grad_()
    found = tree_energy(given, batch, CONFIG)
    torch.testing.assert_close(found, tree_energy(logits[..., 1:, :5], cut, CONFIG))
    found.backward()
    assert given.grad[..., 5:].abs().max() == 0
    batch["valid"][:] = False
    assert tree_energy(logits, batch, CONFIG).item() == 0


def test_the_guide_is_looked_at_in_place_of_the_jittered_image():
    _, _, logits, batch = _case()
    dull = batch | {"image": torch.zeros_like(batch["image"]), "guide": batch["image"]}
    torch.testing.assert_close(
        tree_energy(logits, dull, CONFIG), tree_energy(logits, batch, CONFIG)
    )
    assert tree_energy(logits, dull, CONFIG) != tree_energy(
        logits, batch | {"image": dull["image"]}, CONFIG
    )


def test_fully_labelled_images_cost_nothing():
    _, _, logits, batch = _case()
    assert tree_energy(logits, batch | {"mask": torch.ones(2, 5, 6)}, CONFIG).item() == 0


def test_features_are_read_at_the_centres_of_cells():
    """Features of stride 4 over a view of 10 x 14 that was padded to 12 x 16."""
    y, x = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    features = torch.stack([4 * x + 2, 4 * y + 2])[None]  # positions in pixels
    view = torch.zeros(1, 3, 10, 14)
    found = features_on_grid(features, (12, 16), view, grid_px=7)[0]
    assert found.shape == (2, 5, 7)
    expected_x = ((torch.arange(7) + 0.5) * 2).clamp(2, 14)
    expected_y = ((torch.arange(5) + 0.5) * 2).clamp(2, 10)
    torch.testing.assert_close(found[0], expected_x.expand(5, 7))
    torch.testing.assert_close(found[1], expected_y[:, None].expand(5, 7))


def test_a_network_trains_with_both_trees_and_its_new_layers_are_in_the_head():
    config = Smp.model_validate(
        {
            "architecture": "unet",
            "encoder": "tu-test_resnet",
            "weights": "none",
            "loss": {"tree_energy": {"grid_px": 8, "feature_channels": 5}},
        }
    )
    torch.manual_seed(0)
    task = smp(config=config, num_classes=2).train()
    batch = {
        "image": torch.randn(2, 3, 20, 36),
        "mask": torch.full((2, 20, 36), 255, dtype=torch.uint8),
    }
    batch["mask"][:, ::4] = 1
    losses = task.loss(batch)
    assert set(losses) == {"loss", "cross_entropy", "tree_energy"}
    torch.testing.assert_close(
        losses["loss"].detach(), losses["cross_entropy"] + 0.4 * losses["tree_energy"]
    )
    losses["loss"].backward()
    new = list(task.terms.parameters())
    assert new[0].shape[:2] == (5, 16)
    assert all(p.grad is not None for p in new)
    heads = {id(parameter) for parameter in task.head_parameters()}
    assert {id(parameter) for parameter in new} <= heads


def test_networks_without_features_are_told_to_do_without_the_second_tree():
    net = nn.Conv2d(3, 3, 1)
    with pytest.raises(RecipeError, match=r"tree_energy\.high_level to false"):
        SegmenterTask(net, LossConfig(tree_energy=TreeEnergyConfig()), 2)
    low = LossConfig(tree_energy=TreeEnergyConfig(high_level=False))
    _, _, _, batch = _case()
    assert SegmenterTask(net, low, 2).loss(batch)["tree_energy"] > 0
