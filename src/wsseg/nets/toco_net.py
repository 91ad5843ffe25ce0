"""A vision transformer that localizes in one stage by token contrast (ToCo).

Reference: Ru, Zheng, Zhan and Du, "Token Contrast for Weakly-Supervised Semantic Segmentation",
CVPR 2023; see `wsseg.localize.tags.toco` for the formulas and the differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.nets.backbones import Backbone, captured
from wsseg.nets.cam_head import ClassMapNet, Step, valid_cells
from wsseg.nets.pooling import pool
from wsseg.nets.toco_losses import (
    class_contrast,
    confidence_labels,
    dense_energy,
    draw_crops,
    patch_contrast,
    refined_labels,
    region_codes,
    stretched_maps,
)
from wsseg.nets.toco_parts import Decoder, Projector
from wsseg.segment.losses.cross_entropy import balanced_cross_entropy

if TYPE_CHECKING:
    from wsseg.localize.tags.toco import Toco

_POSITIVE, _NEGATIVE, _NOT_COUNTED = 1, 0, -1


@dataclass(frozen=True)
class TocoStep(Step):
    """A pass of `TocoNet`.

    Args:
        aux_maps: (N, C, h, w), raw class maps of the auxiliary classifier.
        aux_logits: (N, C) float32 of it.
        token: (N, D), the class token of the last layer; None where the network has none.
    """

    aux_maps: Tensor
    aux_logits: Tensor
    token: Tensor | None


class TocoNet(ClassMapNet):
    """A `ClassMapNet` on a transformer with an auxiliary classifier, contrasts and a decoder.

    Args:
        backbone: A plain vision transformer.
        num_classes: C, foreground classes.
        config: All settings.

    Attributes:
        aux_head: Classifier on the tokens of an intermediate block.
        decoder: From features to C + 1 segmentation logits.
        projector: From class tokens to the vectors that are contrasted; None without contrast.
        segments: Whether the decoder trains in this epoch.
        labels_by_final: Whether it learns from the final class maps, and not the auxiliary ones.

    Raises:
        RecipeError: When the backbone is no vision transformer, or lacks a block or a token that
            the settings ask for.

    Example:
        >>> from wsseg.localize.tags.toco import Toco
        >>> from wsseg.nets.build import build_backbone
        >>> vit = build_backbone("test_vit", output_stride=16)
        >>> net = TocoNet(vit, 3, Toco(decoder_width=8, projector_width=8)).eval()
        >>> net.maps(torch.zeros(1, 3, 64, 48)).shape, net.logits(torch.zeros(1, 3, 64, 48)).shape
        (torch.Size([1, 3, 4, 3]), torch.Size([1, 3]))
    """

    def __init__(self, backbone: Backbone, num_classes: int, config: Toco) -> None:
        super().__init__(
            backbone,
            num_classes,
            config.pooling,
            dropout=config.dropout,
            bias=config.head_bias,
            focal_gamma=config.focal_gamma,
        )
        self.config = config
        self._aux_block = _aux_block(backbone, config.aux_layer)
        width = backbone.num_features
        self.aux_head = nn.Conv2d(width, num_classes, 1, bias=config.head_bias)
        nn.init.xavier_uniform_(self.aux_head.weight)
        if self.aux_head.bias is not None:
            nn.init.zeros_(self.aux_head.bias)
        self.decoder = Decoder(width, config.decoder_width, num_classes + 1)
        self.projector: Projector | None = None
        if config.ctc_weight > 0:
            _check_class_token(backbone)
            size = config.projector_width
            self.projector = Projector(width, size, size, ema=config.teacher_ema)
        self.on_epoch_start(0)

    def on_epoch_start(self, epoch: int) -> None:
        """Switch the decoder's losses on, and change the maps that it learns from.

        Args:
            epoch: From 0.
        """
        epochs = self.config.training.epochs
        self.segments = epoch >= int(self.config.segment_after * epochs)
        self.labels_by_final = epoch >= int(self.config.final_maps_after * epochs)

    def step(self, batch: dict[str, Tensor]) -> TocoStep:
        """Run one forward pass.

        Args:
            batch: See `Step`.

        Returns:
            The pass; its maps and logits are those of the final classifier.
        """
        images, valid = batch["image"], batch.get("valid")
        tokens, features, aux = self._tokens(images)
        maps, logits = self._classified(features, self.head, valid)
        aux_maps, aux_logits = self._classified(aux, self.aux_head, valid)
        token = tokens[:, 0] if self.projector is not None else None
        return TocoStep(batch, features, maps, logits, aux_maps, aux_logits, token)

    def _tokens(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute all tokens (N, T, D), and the grids of the last layer and of the inner block."""
        block = self.backbone.trunk.blocks[self._aux_block]
        size = (images.shape[-2], images.shape[-1])
        with captured([block]) as outputs:
            tokens = self.backbone.trunk.forward_features(self.backbone.prepared(images))
        grids = [self.backbone.as_grid(one, size) for one in (tokens, outputs[block])]
        return tokens, grids[0], grids[1]

    def _classified(
        self, features: Tensor, head: nn.Module, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute class maps, and logits from pooled features."""
        dropped = self.dropout(features)
        cells = None if valid is None else valid_cells(valid, features)
        pooled = pool(dropped, self.pooling, cells)
        logits = head(pooled[:, :, None, None].to(dropped.dtype))[:, :, 0, 0]
        return head(dropped), logits.float()

    def maps(self, images: Tensor) -> Tensor:
        """Compute the class maps.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.

        Returns:
            (N, C, h, w): in evaluation mode what the setting ``maps`` says, the probabilities of
            the decoder among them; else the final class maps.
        """
        return self.maps_and_logits(images)[0]

    def raw_maps(self, images: Tensor) -> Tensor:
        """Compute the final class maps, (N, C, h, w)."""
        return self.step({"image": images}).maps

    def maps_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `maps` and `logits` give in one pass: (N, C, h, w) and (N, C)."""
        step = self.step({"image": images})
        if self.training or self.config.maps == "cam":
            return step.maps, step.logits
        if self.config.maps == "aux":
            return step.aux_maps, step.logits
        probabilities = self.decoder(step.features).float().softmax(dim=1)
        return probabilities[:, 1:].to(step.maps.dtype), step.logits

    def logits(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute the logits of the final classifier, (N, C); see `ClassMapNet.logits`."""
        batch = {"image": images} if valid is None else {"image": images, "valid": valid}
        return self.step(batch).logits

    def terms(self, step: Step) -> dict[str, Tensor]:
        """Compute all loss terms of this epoch.

        Args:
            step: The forward pass.

        Returns:
            Weighted ``classification``, ``aux``, ``ptc`` and ``ctc``, where their weights are not
            0, and ``segmentation`` and ``energy`` once the decoder trains.
        """
        if not isinstance(step, TocoStep):
            raise TypeError(f"Expected a TocoStep, but got {type(step).__name__}.")
        config = self.config
        aux = Step(step.batch, step.features, step.aux_maps, step.aux_logits)
        terms = {"classification": self.classification(step), "aux": self.classification(aux)}
        present, valid = step.batch["tags"] > 0, step.batch.get("valid")
        scores = stretched_maps(step.aux_maps, present, valid)
        limits = {"high": config.high, "low": config.low}
        with torch.autocast(step.features.device.type, enabled=False):
            if config.ptc_weight > 0:
                labels = confidence_labels(scores, **limits)
                if valid is not None:
                    labels[~valid_cells(valid, scores)[:, 0]] = 255
                terms["ptc"] = config.ptc_weight * patch_contrast(step.features, labels)
        if self.projector is not None:
            codes = region_codes(scores, **limits)
            terms["ctc"] = config.ctc_weight * self._class_contrast(step, codes, self.projector)
        if self.segments:
            maps = step.maps if self.labels_by_final else step.aux_maps
            terms |= self._segmentation(step, stretched_maps(maps, present, valid))
        return terms

    def _class_contrast(self, step: TocoStep, codes: Tensor, projector: Projector) -> Tensor:
        """Contrast the image's class token with those of its crops."""
        config = self.config
        images, present = step.batch["image"], step.batch["tags"] > 0
        if step.token is None:
            raise TypeError("Expected a pass with class tokens, but it has none.")
        if self.training:
            projector.follow()
        crops, shows_object = draw_crops(
            images,
            codes,
            step.batch.get("valid"),
            num_crops=config.local_crops,
            side_px=config.local_crop_px,
            max_negative_code=config.max_negative_code,
        )
        views = [step.token]
        if config.global_crops == 2:
            views.append(self._tokens(images.flip(3))[0][:, 0])
        tokens = torch.stack(views, dim=1)
        local = self._tokens(crops.flatten(0, 1))[0][:, 0].unflatten(0, crops.shape[:2])
        students = [local] if len(views) == 1 else [tokens, local]
        pairs = _pairs(shows_object, len(views), present.any(dim=1))
        student = projector(torch.cat(students, dim=1))
        teacher = projector.teacher(tokens.detach())
        with torch.autocast(images.device.type, enabled=False):
            return class_contrast(teacher, student, pairs, temperature=config.temperature)

    def _segmentation(self, step: TocoStep, scores: Tensor) -> dict[str, Tensor]:
        """Train the decoder on refined class maps, and its outputs to follow colours."""
        config, batch = self.config, step.batch
        logits = self.decoder(step.features)
        valid = batch.get("valid")
        with torch.autocast(logits.device.type, enabled=False):
            labels = refined_labels(
                batch["image"],
                scores,
                batch["tags"] > 0,
                valid,
                limits=(config.high, config.low),
                config=config.par,
            )
            enlarged = F.interpolate(
                logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False
            )
            terms = {
                "segmentation": config.segment_weight * balanced_cross_entropy(enlarged, labels)
            }
            if config.energy_weight > 0:
                energy = dense_energy(logits, batch["image"], valid)
                terms["energy"] = config.energy_weight * energy
        return terms

    def add_regularisers(self, regularisers: Any) -> None:
        """Let regularisers take part; see `ClassMapNet.add_regularisers`.

        Raises:
            RecipeError: When one of them wants to run the network in its own way.
        """
        for one in regularisers:
            if one.runs_forward:
                raise RecipeError(
                    f"{one.name} runs the network in its own way, which localizer toco does not "
                    f"allow. Remove {one.name} from localize.regularisers."
                )
        super().add_regularisers(regularisers)

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters that start from scratch."""
        own = [self.aux_head, self.decoder, *([self.projector] if self.projector else [])]
        return [*super().head_parameters(), *(p for module in own for p in module.parameters())]


def _pairs(shows_object: Tensor, num_views: int, counts: Tensor) -> Tensor:
    """Say which (teacher, student) pairs are positive, negative, or do not count.

    Args:
        shows_object: (N, L) bool, of the local crops.
        num_views: T, 1 or 2 views of the whole image; with 2 they are students, too.
        counts: (N,) bool, images that have a class.

    Returns:
        (N, T, S) int, S = L, or T + L with 2 views; a view is not compared with itself.
    """
    local = torch.where(shows_object, _POSITIVE, _NEGATIVE)[:, None].repeat(1, num_views, 1)
    if num_views == 2:
        views = torch.full((2, 2), _POSITIVE, device=local.device)
        views.fill_diagonal_(_NOT_COUNTED)
        local = torch.cat([views.expand(len(local), -1, -1), local], dim=2)
    return torch.where(counts[:, None, None], local, _NOT_COUNTED)


def _aux_block(backbone: Backbone, layer: int) -> int:
    """Resolve the index of the block that the auxiliary classifier reads."""
    blocks = getattr(backbone.trunk, "blocks", None)
    if backbone.layout != "tokens" or blocks is None:
        raise RecipeError(
            f'Localizer toco contrasts the tokens of a vision transformer, but "{backbone.name}" '
            "has none. Choose a plain one, e.g. --set localize.backbone=vit_tiny_patch16_224."
        )
    depth = len(blocks)
    if not -depth <= layer < depth - 1 or layer == -1:
        raise RecipeError(
            f'aux_layer is {layer}, but "{backbone.name}" has {depth} blocks, and the auxiliary '
            f"classifier must come before the last: choose 0 to {depth - 2}, or -{depth} to -2."
        )
    return layer % depth


def _check_class_token(backbone: Backbone) -> None:
    if getattr(backbone.trunk, "cls_token", None) is None:
        raise RecipeError(
            f'"{backbone.name}" has no class token, which ctc_weight above 0 contrasts. Set '
            "localize.ctc_weight=0, or choose a transformer with one, e.g. vit_tiny_patch16_224."
        )
