"""The network of EPS: class maps and a background map that together explain a saliency map.

Reference: S. Lee, M. Lee, J. Lee, H. Shim, "Railroad is not a Train: Saliency as Pseudo-pixel
Supervision for Weakly Supervised Semantic Segmentation", CVPR 2021; see
`wsseg.localize.tags.eps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.cam_head import ClassMapNet, Step, valid_cells
from wsseg.nets.pooling import Pooling

if TYPE_CHECKING:
    from wsseg.config import MethodConfig
    from wsseg.cues.protocol import CueInputs
    from wsseg.localize.cue_maps import LearnedCue

SALIENCY = "saliency"
# Keeps a class without any cell from 0/0, as in the released code.
EPSILON = 1e-4


@dataclass(frozen=True)
class EpsStep(Step):
    """A forward pass of EPS.

    Args:
        background: (N, 1, h, w), raw map of the background.
    """

    background: Tensor


class EpsNet(ClassMapNet):
    """A `ClassMapNet` with one more map, that of the background.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        settings: The localizer's settings, whose ``cue`` is the saliency; None: the batches have
            it without being asked for.
        pooling: From the class maps to logits.
        tau: Least share of a class map that saliency must cover for the class to be foreground.
        mix: Lambda, the weight of the foreground maps in the estimated saliency.
        weight: Weight of the saliency loss.
        dropout: Probability of dropping a feature channel before the head while training.
        bias: Give the head a bias.
        focal_gamma: Exponent of the focal loss.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = EpsNet(build_backbone("test_resnet", output_stride=8), 3).eval()
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 8, 6]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        settings: MethodConfig | None = None,
        tau: float = 0.4,
        mix: float = 0.5,
        weight: float = 1.0,
        dropout: float = 0.0,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__(
            backbone, num_classes, pooling, dropout=dropout, bias=bias, focal_gamma=focal_gamma
        )
        self.head = nn.Conv2d(backbone.num_features, num_classes + 1, 1, bias=bias)
        nn.init.xavier_uniform_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        self.settings = settings
        self.tau, self.mix, self.weight = tau, mix, weight

    def aligned_maps(self, inputs: CueInputs) -> dict[str, LearnedCue]:
        """Name the map that is needed beside every training image: its saliency.

        Args:
            inputs: The data set and what belongs to the run.

        Returns:
            ``saliency``, where the settings name a cue.

        Raises:
            DataError: When a cue that learns cannot do so from the data set.
            RecipeError: When the cue cannot be learned from.
        """
        from wsseg.localize.cue_maps import learned_cue

        cue = None if self.settings is None else learned_cue(self.settings, inputs)
        return {} if cue is None else {SALIENCY: cue}

    def step(self, batch: dict[str, Tensor]) -> EpsStep:
        """Run one forward pass."""
        features = self.features(batch["image"])
        cells = self.head(self.dropout(features))
        maps, background = cells[:, : self.num_classes], cells[:, self.num_classes :]
        return EpsStep(batch, features, maps, self.pooled(maps, batch.get("valid")), background)

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Compute the classification loss and the saliency loss.

        Args:
            step: The forward pass, with ``saliency`` in its batch.

        Returns:
            ``classification`` and ``saliency``.

        Raises:
            ValueError: When the batch has no saliency.
        """
        if not isinstance(step, EpsStep):
            raise TypeError(f"Expected an EpsStep, but got {type(step).__name__}.")
        if SALIENCY not in step.batch:
            raise ValueError(f"Expected a batch with `{SALIENCY}`, which EPS learns from.")
        loss = saliency_loss(
            torch.cat([step.maps, step.background], dim=1), step.batch, tau=self.tau, mix=self.mix
        )
        return {**super().terms(step), "saliency": self.weight * loss}

    def maps(self, images: Tensor) -> Tensor:
        """Compute the class maps.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w): in evaluation mode the softmax over classes and background, without the
            background; else the raw ones.
        """
        return self.maps_and_logits(images)[0]

    def raw_maps(self, images: Tensor) -> Tensor:
        """Compute the class maps before the softmax, (N, C, h, w)."""
        return self.step({"image": images}).maps

    def maps_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `maps` and `logits` give in one pass: (N, C, h, w) and (N, C)."""
        step = self.step({"image": images})
        if self.training:
            return step.maps, step.logits
        cells = torch.cat([step.maps, step.background], dim=1)
        return cells.softmax(dim=1)[:, : self.num_classes], step.logits

    def logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute the logits of the classes, (N, C); see `ClassMapNet.logits`."""
        batch = {"image": images} if valid is None else {"image": images, "valid": valid}
        return self.step(batch).logits


def saliency_loss(cells: Tensor, batch: dict[str, Tensor], *, tau: float, mix: float) -> Tensor:
    """Compare the saliency that the maps estimate with the saliency of the cue.

    Args:
        cells: (N, C + 1, h, w) raw maps, the background last.
        batch: ``saliency`` (N, 1, H, W) in [0, 1], negative where the cue says nothing of an
            image; ``tags`` (N, C), of which those above 0 are present; and ``valid``
            (N, 1, H, W) where there is padding.
        tau: See `estimated_saliency`.
        mix: See `estimated_saliency`.

    Returns:
        A scalar: the squared error averaged over the valid cells of the images with a class and
        saliency; 0 where there is none.
    """
    probabilities = cells.float().softmax(dim=1)
    shown = batch[SALIENCY].float()
    saliency = F.interpolate(shown, size=cells.shape[2:], mode="nearest").clamp(0, 1)
    present = batch["tags"] > 0
    counts = torch.ones_like(saliency)
    if "valid" in batch:
        counts = valid_cells(batch["valid"], cells).float()
    # Maps that say nothing are -1 but for their padding.
    taught = present.any(dim=1) & (shown.flatten(1).amin(dim=1) >= 0)
    counts = counts * taught[:, None, None, None]
    estimate = estimated_saliency(probabilities, saliency, present, tau=tau, mix=mix, counts=counts)
    return ((estimate - saliency).square() * counts).sum() / counts.sum().clamp(min=1)


def estimated_saliency(
    probabilities: Tensor,
    saliency: Tensor,
    present: Tensor,
    *,
    tau: float,
    mix: float,
    counts: Tensor | None = None,
) -> Tensor:
    """Mix the maps of foreground and background into an estimate of the saliency.

    Args:
        probabilities: (N, C + 1, h, w), summing to 1 over classes and background, which is last.
        saliency: (N, 1, h, w) in [0, 1].
        present: (N, C) bool.
        tau: A present class whose map is covered by the saliency to more than this share is
            foreground, else background.
        mix: Lambda in [0, 1]: weight of the foreground, against that of what is not background.
        counts: (N, 1, h, w) 0 or 1, cells that count for the share; None: all.

    Returns:
        (N, 1, h, w) in [0, 1]; no gradient flows through the choice of foreground and background.

    Example:
        >>> probabilities = torch.tensor([0.7, 0.1, 0.2]).reshape(1, 3, 1, 1)
        >>> present = torch.tensor([[True, False]])
        >>> one = torch.ones(1, 1, 1, 1)
        >>> round(estimated_saliency(probabilities, one, present, tau=0.4, mix=0.5).item(), 3)
        0.75
    """
    covered = coverage(probabilities[:, :-1], saliency, counts)
    is_foreground = (present & (covered > tau))[:, :, None, None]
    is_background = (present & (covered <= tau))[:, :, None, None]
    foreground = (probabilities[:, :-1] * is_foreground).sum(dim=1, keepdim=True)
    background = (probabilities[:, :-1] * is_background).sum(dim=1, keepdim=True)
    background = background + probabilities[:, -1:]
    return mix * foreground + (1 - mix) * (1 - background)


@torch.no_grad()
def coverage(probabilities: Tensor, saliency: Tensor, counts: Tensor | None = None) -> Tensor:
    """Tell which share of each class map the saliency covers, both rounded to 0 or 1.

    Args:
        probabilities: (N, C, h, w) in [0, 1].
        saliency: (N, 1, h, w) in [0, 1].
        counts: (N, 1, h, w) 0 or 1, cells that count; None: all.

    Returns:
        (N, C) in [0, 1], without gradient; 0 for a class that reaches a half nowhere.

    Example:
        >>> maps = torch.tensor([[[[0.9, 0.8, 0.2]]]])
        >>> coverage(maps, torch.tensor([[[[1.0, 0.0, 1.0]]]])).round(decimals=3).tolist()
        [[0.5]]
    """
    claimed = probabilities.round()
    if counts is not None:
        claimed = claimed * counts
    return (claimed * saliency.round()).sum(dim=(2, 3)) / (claimed.sum(dim=(2, 3)) + EPSILON)
