"""A check for localizers whose maps are not the ones that their logits are pooled from."""

from __future__ import annotations

from wsseg.localize.config import InferenceConfig


def check_own_maps(name: str, inference: InferenceConfig, *, is_rectified: bool) -> None:
    """Refuse settings of the extraction under which the localizer's own maps are not seen.

    Args:
        name: Name of the localizer, for the message.
        inference: How maps are extracted.
        is_rectified: Whether its maps are never negative.

    Raises:
        ValueError: When the extractor is not cam, the normalisation takes maps for logits, or
            negative evidence is asked for where there is none.

    Example:
        >>> check_own_maps("mdc", InferenceConfig(normalise="absolute"), is_rectified=True)
        Traceback (most recent call last):
        ValueError: mdc has maps that are no logits, ... Set inference.normalise=max.
    """
    extractor = inference.extractor
    if extractor.name != "cam":
        raise ValueError(
            f"{name} makes maps of its own, which extractor {extractor.name} would not show: it "
            "explains the logits. Set inference.extractor.name=cam."
        )
    if inference.normalise == "absolute":
        raise ValueError(
            f"{name} has maps that are no logits, which normalise=absolute takes them for. "
            "Set inference.normalise=max."
        )
    if is_rectified and not extractor.rectify:
        raise ValueError(
            f"{name} joins rectified maps, so that no negative evidence is left to keep, but "
            "inference.extractor.rectify is false. Set it to true."
        )
