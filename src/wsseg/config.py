"""The base of every configuration: frozen, strict, each field with description and range."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen group of settings; an unknown key is an error.

    Every field carries ``Field(default, description=..., ge=..., le=...)`` with its unit in the
    description: ``wsseg recipes explain`` prints them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=False
    )


class MethodConfig(Config):
    """Settings of one registered method; subclasses declare ``name: Literal["its_name"]``.

    Attributes:
        writes_background: Whether the method, a refiner or localizer, makes the background row of
            its scores. From such a step on the scores can be scored as masks.
        leaves_open: Whether the method, a refiner, leaves pixels without any evidence that are
            not known, and no background.
        fills_unknown: Whether the method, a refiner that makes the background row, also works
            behind localizers that know the background: it keeps what they know, and fills what
            they left open.
    """

    writes_background: ClassVar[bool] = False
    leaves_open: ClassVar[bool] = False
    fills_unknown: ClassVar[bool] = False

    @property
    def needs_localizer(self) -> bool:
        """Whether the method works with the network that the run's localizer trains."""
        return False
