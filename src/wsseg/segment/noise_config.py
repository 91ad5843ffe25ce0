"""Settings of losses that expect errors in the masks; see `wsseg.segment.losses.noisy`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from wsseg.config import Config


class Bootstrap(Config):
    """Cross-entropy whose target is partly the network's own prediction."""

    form: Literal["soft", "hard"] = Field(
        "soft", description="soft: mixed with the probabilities; hard: with the best class."
    )
    share: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Share of the mask in the target, beta; published: 0.95 soft, 0.8 hard "
        "(the default of each form).",
    )

    @model_validator(mode="before")
    @classmethod
    def _share_of_the_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("form") == "hard":
            return {"share": 0.8, **value}
        return value


class Underfit(Config):
    """Large losses are weakened once the mean loss is small."""

    form: Literal["power", "clamp", "drop"] = Field(
        "clamp",
        description="power: loss ** k; clamp: at most k; drop: pixels above k are left out.",
    )
    start_below: float = Field(
        0.5, gt=0, le=100, description="Mean loss of a batch below which the rule applies."
    )
    k: float = Field(0.5, gt=0, le=100, description="Exponent or limit, see form.")
