"""A multi-label classifier whose class maps are its own: backbone, 1x1 convolution, pooling.

Reference: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, in
the form that the image-label literature uses since Ahn and Kwak, CVPR 2018: the classifier is a
1x1 convolution without bias, so that its output before pooling is the class activation map

    M_c(u) = sum_k W_ck F_k(u),      logit_c = pool_u M_c(u).

Differences: any pooling, not only the average; cells that show padding do not count.

Loss: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, for the focal option.

Regularisers (`wsseg.localize.regularise`) may change the batch before the forward pass, take that
pass over, and add terms to the loss. A localizer of its own kind overrides `ClassMapNet.terms`,
not `ClassMapNet.loss`, and so works with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg.nets.backbones import Backbone
from wsseg.nets.pooling import Gap, Pooling, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsseg.localize.regularise.protocol import Regulariser

# Positives of a very rare class weigh at most this much: beyond it single images decide.
MAX_POSITIVE_WEIGHT = 20.0


@dataclass(frozen=True)
class Step:
    """What one forward pass of a `ClassMapNet` made of a batch.

    Args:
        batch: What went in, after all input transforms: ``image`` (N, 3 or 1, H, W), and in
            training ``tags`` (N, C) in [0, 1], where there is padding ``valid`` (N, 1, H, W), and
            ``tag_weights`` (N, C) where tags count unequally.
        features: (N, D, h, w), of the backbone.
        maps: (N, C, h, w), raw class maps.
        logits: (V N, C) float32: of V views of the N images, one view after the other.
    """

    batch: dict[str, Tensor]
    features: Tensor
    maps: Tensor
    logits: Tensor


class ClassMapNet(nn.Module):
    """Backbone, 1x1 convolution and pooling.

    Args:
        backbone: Features of the images.
        num_classes: C, foreground classes.
        pooling: From maps to logits.
        dropout: Probability of dropping a feature channel before the head while training.
        bias: Give the head a bias. It helps poolings that look at few cells; a CAM has none.
        focal_gamma: Exponent of the focal loss; 0 is the multi-label soft margin loss.

    Attributes:
        runs_regularisers: Whether `loss` of this class lets regularisers do their work. A
            subclass with a `loss` of its own that calls this one's says True, too.
        regularisers: The regularisers, in the order in which they act.
        extras: Their modules by the regulariser's name.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> net = ClassMapNet(build_backbone("test_resnet", output_stride=8), num_classes=3)
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 8, 6]), torch.Size([1, 3]))
    """

    runs_regularisers: ClassVar[bool] = True
    positive_weights: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pooling: Pooling | None = None,
        *,
        dropout: float = 0.5,
        bias: bool = False,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.pooling: Pooling = Gap() if pooling is None else pooling
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(backbone.num_features, num_classes, 1, bias=bias)
        nn.init.xavier_uniform_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        self.focal_gamma = focal_gamma
        self.register_buffer("positive_weights", torch.ones(num_classes))
        self.regularisers: tuple[Regulariser, ...] = ()
        self.extras = nn.ModuleDict()

    def add_regularisers(self, regularisers: Sequence[Regulariser]) -> None:
        """Let regularisers take part in the training, after their conflicts were checked.

        Args:
            regularisers: In the order in which they act; see
                `wsseg.localize.regularise.attach.attach`, which checks and calls this.
        """
        for regulariser in regularisers:
            module = regulariser.build(self)
            if module is not None:
                self.extras[regulariser.name] = module
        self.regularisers = (*self.regularisers, *regularisers)

    def _forward_runner(self) -> Regulariser | None:
        return next((r for r in self.regularisers if r.runs_forward), None)

    def features(self, images: Tensor) -> Tensor:
        """Compute the backbone's features.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, D, h, w) float.
        """
        features: Tensor = self.backbone(images)
        return features

    def step(self, batch: dict[str, Tensor]) -> Step:
        """Run one forward pass.

        Args:
            batch: ``image``, and optionally the others that `Step` lists.

        Returns:
            Everything that losses may look at.
        """
        runner = self._forward_runner()
        if runner is not None:
            return runner.step(self, batch)
        features = self.features(batch["image"])
        maps = self.head(self.dropout(features))
        return Step(batch, features, maps, self.pooled(maps, batch.get("valid")))

    def pooled(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pool class maps to logits.

        Args:
            maps: (N, C, h, w).
            valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.

        Returns:
            (N, C) float32.
        """
        return pool(maps, self.pooling, None if valid is None else valid_cells(valid, maps))

    def maps(self, images: Tensor) -> Tensor:
        """Compute the class maps, negative evidence included.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w) float; in evaluation mode those that a regulariser such as SEAM refined.
        """
        if self._forward_runner() is not None:
            return self.maps_and_logits(images)[0]
        maps: Tensor = self.head(self.dropout(self.features(images)))
        return maps

    def raw_maps(self, images: Tensor) -> Tensor:
        """Compute the class maps without any refinement by a regulariser.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w) float.
        """
        if self._forward_runner() is not None:
            return self.step({"image": images}).maps
        return self.maps(images)

    def maps_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute maps and logits in one pass.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            What `maps` gives, (N, C, h, w), and the logits of the raw maps, (N, C) float32.
        """
        runner = self._forward_runner()
        if runner is None:
            maps = self.maps(images)
            return maps, self.pooled(maps)
        step = self.step({"image": images})
        logits = step.logits[: len(images)]
        return (step.maps if self.training else runner.refined(self, step)), logits

    def logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute the class logits.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.
            valid: (N, 1, H, W), non-zero where a pixel belongs to the image, zero where it is
                padding; None: everywhere.

        Returns:
            (N, C) float32.
        """
        if self._forward_runner() is not None:
            batch = {"image": images} if valid is None else {"image": images, "valid": valid}
            return self.step(batch).logits[: len(images)]
        return self.pooled(self.maps(images), valid)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the class logits, (N, C) float32."""
        return self.logits(images)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the training loss: the terms of the localizer and of its regularisers.

        In evaluation mode regularisers stay out of it.

        Args:
            batch: ``image`` (N, 3 or 1, H, W) normalised, ``tags`` (N, C) in [0, 1], and
                optionally ``valid`` (N, 1, H, W).

        Returns:
            ``loss``, the sum of all terms, and the terms where there are several.
        """
        active = self.regularisers if self.training else ()
        for regulariser in active:
            batch = regulariser.transform(batch)
        step = self.step(batch)
        terms = dict(self.terms(step))
        for regulariser in active:
            terms |= regulariser.terms(self, step)
        if len(terms) == 1:
            return {"loss": next(iter(terms.values()))}
        return {"loss": torch.stack([term.float() for term in terms.values()]).sum(), **terms}

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Compute the localizer's own loss terms: here the classification loss.

        Args:
            step: The forward pass.

        Returns:
            Scalars by name; their sum is minimised.
        """
        return {"classification": self.classification(step)}

    def classification(self, step: Step) -> Tensor:
        """Compute the classification loss, averaged over views, images and classes.

        With weights of one and no focal exponent it is
        ``-mean_{n,c} [ y log sigma(x) + (1 - y) log sigma(-x) ]``.

        Args:
            step: Its logits, and of its batch ``tags`` and ``tag_weights``.

        Returns:
            A scalar.
        """
        logits = step.logits
        num_views = len(logits) // len(step.batch["tags"])
        tags = step.batch["tags"].to(logits.dtype).repeat(num_views, 1)
        loss = F.binary_cross_entropy_with_logits(
            logits, tags, pos_weight=self.positive_weights, reduction="none"
        )
        if "tag_weights" in step.batch:
            loss = loss * step.batch["tag_weights"].to(loss.dtype).repeat(num_views, 1)
        if self.focal_gamma > 0:
            probability = logits.sigmoid()
            missed = tags * (1 - probability) + (1 - tags) * probability
            loss = loss * missed**self.focal_gamma
        return loss.mean()

    def start_epoch(self, epoch: int) -> None:
        """Tell a subclass's own ``on_epoch_start`` and all regularisers that an epoch begins.

        Args:
            epoch: From 0.
        """
        own = getattr(type(self), "on_epoch_start", None)
        if own is not None:
            own(self, epoch)
        for regulariser in self.regularisers:
            regulariser.on_epoch_start(epoch)

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        return [*self.head.parameters(), *self.extras.parameters()]

    def set_class_weights(self, tags: NDArray[np.floating]) -> None:
        """Let positives of rare classes weigh more (see `positive_weights`).

        Args:
            tags: (n, C) 0 or 1, the training tags.
        """
        weights = torch.from_numpy(positive_weights(tags))
        self.positive_weights.copy_(weights.to(self.positive_weights))


def positive_weights(tags: NDArray[np.floating]) -> NDArray[np.float32]:
    """Weigh the positives of each class so that they count as much as its negatives.

    Args:
        tags: (n, C) 0 or 1.

    Returns:
        (C,) float32, negatives per positive, between 1/20 and 20; 1 for a class without any
        positive.

    Example:
        >>> positive_weights(np.array([[1, 0], [0, 0], [0, 0], [0, 0]])).tolist()
        [3.0, 1.0]
    """
    positives = np.asarray(tags).sum(axis=0).astype(np.float64)
    negatives = len(tags) - positives
    ratio = np.divide(negatives, positives, out=np.ones_like(positives), where=positives > 0)
    return np.clip(ratio, 1 / MAX_POSITIVE_WEIGHT, MAX_POSITIVE_WEIGHT).astype(np.float32)


def valid_cells(valid: Tensor, maps: Tensor) -> Tensor:
    """Bring a map of valid pixels to the cells of class maps.

    Args:
        valid: (N, 1, H, W) or (N, H, W), non-zero where a pixel belongs to the image.
        maps: (N, C, h, w), for the size.

    Returns:
        (N, 1, h, w) bool: cells of which at least half is valid; the most valid cells of an image
        that has no such cell.
    """
    if valid.ndim == 3:
        valid = valid.unsqueeze(1)
    share = F.interpolate((valid > 0).float(), size=maps.shape[2:], mode="area")
    enough = share.amax(dim=(2, 3), keepdim=True).clamp(max=0.5)
    return share >= enough
