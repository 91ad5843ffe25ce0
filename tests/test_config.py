from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from wsseg.config import Config, MethodConfig
from wsseg.context import RunContext


class Guided(MethodConfig):
    """Settings of a method."""

    radius_px: int = Field(8, ge=1, description="Radius, pixels.")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Guided().radius_px = 3  # type: ignore[misc]


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Guided(radius=3)  # type: ignore[call-arg]


def test_even_a_default_must_lie_in_its_range() -> None:
    class Wrong(Config):
        radius_px: int = Field(0, ge=1, description="Radius, pixels.")

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Wrong()


def test_equal_settings_are_equal_and_can_be_keys() -> None:
    assert Guided(radius_px=3) == Guided(radius_px=3)
    assert {Guided(): 1}[Guided(radius_px=8)] == 1


def test_masks_may_not_tune_unless_it_is_said() -> None:
    assert RunContext().allow_masks is False
    assert RunContext().max_side_px is None
