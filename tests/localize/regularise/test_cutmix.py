from __future__ import annotations

import numpy as np
import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.localize.regularise.cutmix import beta_samples, kept_share, mixed_tags, partners


def numbered(batch: dict) -> dict:
    """Images whose pixels are all the image's number."""
    image = torch.arange(4.0)[:, None, None, None].expand(4, 3, 64, 64).clone()
    return {**batch, "image": image}


@pytest.mark.parametrize("seed", range(5))
def test_a_rectangle_of_another_image_is_pasted_and_tags_follow_the_area(make_net, batch, seed):
    regulariser = make_net("cutmix").regularisers[0]
    torch.manual_seed(seed)
    mixed = regulariser.transform({k: v for k, v in numbered(batch).items() if k != "valid"})
    for number, (image, tags) in enumerate(zip(mixed["image"], mixed["tags"], strict=True)):
        foreign = image[0] != number
        expected = batch["tags"][number].double()
        if foreign.any():
            rows, columns = torch.nonzero(foreign, as_tuple=True)
            box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert len(rows) == int(box)
            values = image[0][foreign].unique()
            assert len(values) == 1
            share = 1 - len(rows) / 64**2
            partner = batch["tags"][int(values)].double()
            expected = share * expected + (1 - share) * partner
        torch.testing.assert_close(tags.double(), expected, rtol=0, atol=1e-6)


def test_padding_is_pasted_as_padding_and_does_not_count_as_area(make_net, batch):
    regulariser = make_net("cutmix").regularisers[0]
    for seed in range(8):
        torch.manual_seed(seed)
        mixed = regulariser.transform(numbered(batch))
        for number in range(4):
            foreign = mixed["image"][number, 0] != number
            source = int(mixed["image"][number, 0][foreign][0]) if foreign.any() else number
            own, other = batch["valid"][number, 0], batch["valid"][source, 0]
            expected = torch.where(foreign, other, own)
            assert torch.equal(mixed["valid"][number, 0], expected)
            share = 1 - float((expected * foreign).sum()) / float(expected.sum())
            tags = share * batch["tags"][number] + (1 - share) * batch["tags"][source]
            torch.testing.assert_close(mixed["tags"][number], tags, rtol=0, atol=1e-6)


def test_the_area_follows_the_beta_distribution(make_net):
    regulariser = make_net("cutmix").regularisers[0]
    torch.manual_seed(0)
    count = 3000
    image = torch.arange(float(count))[:, None, None, None].expand(count, 1, 32, 32).clone()
    mixed = regulariser.transform({"image": image, "tags": torch.zeros(count, 1)})
    foreign = (mixed["image"][:, 0] != image[:, 0]).flatten(1).float().mean(1)
    # Reference in NumPy: lambda uniform, a centre anywhere, cut at the border.
    rng = np.random.default_rng(0)
    side = (32 * np.sqrt(1 - rng.random(40_000))).astype(int)
    centres = rng.integers(0, 32, (2, 40_000))
    spans = [np.clip(c - side // 2 + side, 0, 32) - np.clip(c - side // 2, 0, 32) for c in centres]
    expected = spans[0] * spans[1] / 32**2
    assert float(foreign.mean()) == pytest.approx(expected.mean(), abs=0.01)
    assert float(foreign.std()) == pytest.approx(expected.std(), abs=0.01)


def test_union_keeps_both_tags_and_weights_them_by_area() -> None:
    batch = {"tags": torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]])}
    mixed = mixed_tags(batch, torch.tensor([1, 0]), torch.tensor([[0.75], [1.0]]), "union")
    assert mixed["tags"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    assert mixed["tag_weights"].tolist() == [[0.75, 1, 0.25, 1], [0, 1, 1, 1]]


def test_area_mixes_tags() -> None:
    batch = {"tags": torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]])}
    mixed = mixed_tags(batch, torch.tensor([1, 0]), torch.tensor([[0.75], [1.0]]), "area")
    assert mixed["tags"].tolist() == [[0.75, 1, 0.25, 0], [0, 1, 1, 0]]
    assert "tag_weights" not in mixed


def test_weights_that_were_there_are_mixed_too() -> None:
    batch = {"tags": torch.tensor([[1.0], [0.0]]), "tag_weights": torch.tensor([[1.0], [0.5]])}
    partner, share = torch.tensor([1, 0]), torch.tensor([[0.5], [0.5]])
    assert mixed_tags(batch, partner, share, "area")["tag_weights"].tolist() == [[0.75], [0.75]]
    assert mixed_tags(batch, partner, share, "union")["tag_weights"].tolist() == [[0.375], [0.375]]


def test_weights_reach_the_loss(make_net, batch):
    net = make_net({"name": "cutmix", "tags": "union"})
    torch.manual_seed(3)
    mixed = net.regularisers[0].transform(batch)
    assert float(mixed["tag_weights"].min()) < 1
    torch.manual_seed(3)
    found = net.loss(batch)["loss"]
    step = net.step(mixed)
    torch.testing.assert_close(found, net.classification(step))
    unweighted = {k: v for k, v in mixed.items() if k != "tag_weights"}
    assert float(net.classification(net.step(unweighted)).detach()) > float(found.detach())


def test_images_may_stay_whole(make_net):
    regulariser = make_net({"name": "cutmix", "probability": 0.25}).regularisers[0]
    torch.manual_seed(0)
    image = torch.arange(2000.0)[:, None, None, None].expand(2000, 1, 16, 16).clone()
    tags = torch.rand(2000, 2)
    mixed = regulariser.transform({"image": image, "tags": tags})
    changed = (mixed["image"] != image).flatten(1).any(1)
    assert 0.18 < float(changed.float().mean()) < 0.27
    torch.testing.assert_close(mixed["tags"][~changed], tags[~changed])


def test_an_image_of_nothing_but_padding_keeps_its_tags() -> None:
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert kept_share(mask, torch.zeros(1, 1, 4, 4)).tolist() == [1.0]
    assert kept_share(mask, None).tolist() == [0.0]


def test_a_single_image_cannot_be_mixed(make_net):
    for name in ("cutmix", "mixup_cam"):
        with pytest.raises(RecipeError, match=f"{name} mixes .*batch_size is 1"):
            make_net(name, training={"batch_size": 1})
        with pytest.raises(RecipeError, match="single image"):
            partners(name, torch.zeros(1, 3, 4, 4))


def test_partners_are_a_permutation() -> None:
    torch.manual_seed(0)
    assert sorted(partners("cutmix", torch.zeros(7, 1, 1, 1)).tolist()) == list(range(7))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_has_the_moments_of_the_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    drawn = beta_samples(torch.zeros(20_000, 1, 1, 1), alpha)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
