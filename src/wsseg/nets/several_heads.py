"""A classifier with several heads on one backbone, whose maps are joined to one.

The base of MDC (`wsseg.nets.mdc_head`) and ACoL (`wsseg.nets.acol_head`). Every head has its own
classification loss; they add up. While training, and for regularisers, the class maps are the
mean of the heads' raw maps, which is linear; in evaluation mode they are what `joined` makes of
them.

Papers divide maps by their maximum before they join them. That would make the faintest map of a
tile, or of an image at half its size, as strong as the clearest. So `stretched_and_joined` gives
the result back the mean of the ranges that were divided by, per image and class: within one
forward pass this is a factor, which normalisation removes again, and passes can be compared as
those of a plain CAM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import ClassMapNet, Step
from wsseg.nets.pooling import Pooling

# Keeps a map without any evidence at zero (as in IRN and PSA).
EPSILON = 1e-5


class SeveralHeadsNet(ClassMapNet, ABC):
    """Backbone, several heads and a rule that joins their maps.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From the maps of each head to its logits.
        heads: Modules from features (N, D, h, w) to raw class maps (N, C, h, w).
        dropout: Probability of dropping a feature channel before the heads while training.
        focal_gamma: Exponent of the focal loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None,
        heads: list[nn.Module],
        *,
        dropout: float = 0.5,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__(backbone, num_classes, pooling, dropout=dropout, focal_gamma=focal_gamma)
        # Parameters without gradient would stop a training on several devices.
        del self.head
        self.heads = nn.ModuleList(heads)

    def head_maps(self, batch: dict[str, Tensor], features: Tensor) -> list[Tensor]:
        """Compute the raw class maps of all heads.

        Args:
            batch: As in `step`; without tags when maps are extracted.
            features: (N, D, h, w), of its images.

        Returns:
            One (N, C, h, w) per head.
        """
        del batch
        dropped = self.dropout(features)
        return [head(dropped) for head in self.heads]

    @abstractmethod
    def joined(self, maps: list[Tensor]) -> Tensor:
        """Join the raw class maps of all heads to those that are extracted.

        Args:
            maps: One (N, C, h, w) per head.

        Returns:
            (N, C, h, w), not negative.
        """

    def image_logits(self, logits: list[Tensor]) -> Tensor:
        """Choose the logits that stand for the image: here the mean of all heads.

        Args:
            logits: One (N, C) per head.

        Returns:
            (N, C).
        """
        return torch.stack(logits).mean(dim=0)

    def _run(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        features = self.features(batch["image"])
        maps = self.head_maps(batch, features)
        return features, maps, [self.pooled(one, batch.get("valid")) for one in maps]

    def step(self, batch: dict[str, Tensor]) -> Step:
        """Run one forward pass; the logits of the heads are its views, the first head first."""
        runner = self._forward_runner()
        if runner is not None:
            return runner.step(self, batch)
        features, maps, logits = self._run(batch)
        return Step(batch, features, torch.stack(maps).mean(dim=0), torch.cat(logits))

    def maps(self, images: Tensor) -> Tensor:
        """Compute the class maps.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w): the joined ones in evaluation mode, else the mean of the raw ones.
        """
        return self.maps_and_logits(images)[0]

    def raw_maps(self, images: Tensor) -> Tensor:
        """Compute the mean of the heads' raw class maps, (N, C, h, w)."""
        return self.step({"image": images}).maps

    def maps_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `maps` and `logits` give in one pass: (N, C, h, w) and (N, C)."""
        _, maps, logits = self._run({"image": images})
        shown = torch.stack(maps).mean(dim=0) if self.training else self.joined(maps)
        return shown, self.image_logits(logits)

    def logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute the class logits of images, (N, C) float32; see `ClassMapNet.logits`."""
        batch = {"image": images} if valid is None else {"image": images, "valid": valid}
        return self.image_logits(self._run(batch)[2])

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Add up the classification losses of all heads.

        Args:
            step: The forward pass.

        Returns:
            ``classification``, a scalar.
        """
        return {"classification": len(self.heads) * self.classification(step)}

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        return [*self.heads.parameters(), *self.extras.parameters()]


def stretched_and_joined(
    maps: list[Tensor], rule: Callable[[list[Tensor]], Tensor], *, from_minimum: bool
) -> Tensor:
    """Stretch rectified maps to [0, 1], join them, and give back their mean range.

    Args:
        maps: Raw class maps, each (N, C, h, w).
        rule: What joins them once each is ``(ReLU(M) - low) / (max - low)``.
        from_minimum: Whether ``low`` is the minimum of each map, or 0.

    Returns:
        (N, C, h, w) float32, not negative where the rule keeps that.
    """
    ranges, stretched = [], []
    for one in maps:
        positive = one.float().relu()
        if from_minimum:
            positive = positive - positive.amin(dim=(2, 3), keepdim=True)
        extent = positive.amax(dim=(2, 3), keepdim=True)
        ranges.append(extent)
        stretched.append(positive / (extent + EPSILON))
    return torch.stack(ranges).mean(dim=0) * rule(stretched)
