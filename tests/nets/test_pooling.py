from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from wsseg.nets.pooling import (
    SEC_MAP_CELLS,
    Gap,
    GlobalMax,
    Gwrp,
    LogSumExp,
    Pooling,
    TopK,
    gap,
    global_max,
    gwrp,
    log_sum_exp,
    pool,
    topk,
)

ALL = [Gap(), GlobalMax(), LogSumExp(), TopK(fraction=0.3), Gwrp(decay=0.9)]


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def test_gap_is_the_mean() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert gap(maps).item() == 3.0


def test_gwrp_without_decay_is_the_mean_and_with_full_decay_the_maximum(
    maps: torch.Tensor,
) -> None:
    torch.testing.assert_close(gwrp(maps, 1.0), gap(maps))
    torch.testing.assert_close(gwrp(maps, 0.0), global_max(maps), rtol=0, atol=0)


def test_gwrp_weighs_the_cells_by_rank() -> None:
    maps = torch.tensor([[[[1.0, 4.0, 2.0]]]])
    expected = (4.0 + 0.5 * 2.0 + 0.25 * 1.0) / 1.75
    assert gwrp(maps, 0.5).item() == pytest.approx(expected)


def test_scaled_gwrp_equals_the_paper_on_a_map_of_41_by_41_cells() -> None:
    maps = torch.randn(1, 2, 41, 41)
    assert SEC_MAP_CELLS == 41 * 41
    torch.testing.assert_close(
        gwrp(maps, 0.996, scale_to_map=True), gwrp(maps, 0.996), rtol=1e-4, atol=1e-5
    )


def test_scaled_gwrp_is_nearly_the_same_on_a_map_of_twice_the_size() -> None:
    small = torch.rand(1, 1, 20, 20)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    scaled = [gwrp(one, 0.996, scale_to_map=True).item() for one in (small, large)]
    plain = [gwrp(one, 0.996).item() for one in (small, large)]
    assert abs(scaled[0] - scaled[1]) < 0.02 < abs(plain[0] - plain[1])


def test_log_sum_exp_tends_to_the_mean_and_to_the_maximum(maps: torch.Tensor) -> None:
    torch.testing.assert_close(log_sum_exp(maps, 1e-3), gap(maps), atol=2e-3, rtol=0)
    torch.testing.assert_close(log_sum_exp(maps, 1000.0), global_max(maps), atol=5e-3, rtol=0)


def test_log_sum_exp_agrees_with_its_formula_in_float64() -> None:
    values = np.array([0.3, -1.0, 2.5])
    expected = math.log(np.mean(np.exp(4.0 * values))) / 4.0
    maps = torch.from_numpy(values).reshape(1, 1, 1, 3)
    assert log_sum_exp(maps, 4.0).item() == pytest.approx(expected, rel=1e-6)


def test_log_sum_exp_does_not_overflow() -> None:
    assert log_sum_exp(torch.full((1, 1, 2, 2), 1e4), 100.0).item() == pytest.approx(1e4)


def test_topk_averages_the_highest_cells_and_at_least_one() -> None:
    maps = torch.arange(10.0).reshape(1, 1, 2, 5)
    assert topk(maps, 0.3).item() == 8.0
    assert topk(maps, 0.01).item() == 9.0
    assert topk(maps, 1.0).item() == 4.5


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_invalid_cells_count_as_if_they_were_cut_off(config: Pooling, maps: torch.Tensor) -> None:
    valid = torch.zeros(2, 1, 5, 7, dtype=torch.bool)
    valid[0, :, :3, :4] = True
    valid[1, :, 1:, 2:] = True
    whole = pool(maps, config, valid)
    torch.testing.assert_close(whole[:1], pool(maps[:1, :, :3, :4], config))
    torch.testing.assert_close(whole[1:], pool(maps[1:, :, 1:, 2:], config))


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_gradients_are_finite_and_zero_in_invalid_cells(
    config: Pooling, maps: torch.Tensor
) -> None:
    valid = torch.zeros(2, 1, 5, 7, dtype=torch.bool)
    valid[..., :2] = True
    maps.requires_grad_(True)
    pool(maps, config, valid).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()
    assert (maps.grad[..., 2:] == 0).all()
    assert maps.grad[..., :2].abs().sum() > 0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(ALL))
def test_every_pooling_lies_between_mean_and_maximum(
    height: int, width: int, config: Pooling
) -> None:
    maps = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(height))
    pooled = pool(maps, config)
    assert (pooled >= gap(maps) - 1e-5).all()
    assert (pooled <= global_max(maps) + 1e-5).all()


def test_the_configuration_is_chosen_by_its_name() -> None:
    adapter: TypeAdapter[Pooling] = TypeAdapter(Pooling)
    assert adapter.validate_python({"name": "lse", "sharpness": 2}) == LogSumExp(sharpness=2)
    with pytest.raises(ValidationError, match="decay"):
        adapter.validate_python({"name": "gwrp", "decay": 1.5})
    with pytest.raises(ValidationError, match="meanmax"):
        adapter.validate_python({"name": "meanmax"})
