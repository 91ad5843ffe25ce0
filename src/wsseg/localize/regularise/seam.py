"""SEAM: the maps of a smaller image shall be the smaller maps, and alike cells share scores.

Reference: Wang, Zhang, Kan, Shan and Chen, "Self-supervised Equivariant Attention Mechanism for
Weakly Supervised Semantic Segmentation", CVPR 2020. The image and the image at 0.3 of its size go
through one network. Their maps shall agree (equivariant regularisation), and the raw maps of each
teach the maps of the other that the pixel correlation module refined (equivariant cross
regularisation); see `wsseg.localize.regularise.seam_losses` and `wsseg.nets.pixel_correlation`.
The classification loss is the mean over both, on maps enlarged to the image. The refined maps
are what the localizer gives when it is trained.

The auxiliary term (``rvmin_weight``) is in the released code and not in the paper; its comment
says that it moves the best background threshold rather than the result.

Differences: any backbone; the classifier has no row for the background, as that of the code is
never trained nor read; cells that show padding do not count in the classification loss; the
refined maps are extracted at the size of the features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.errors import RecipeError
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.localize.regularise.seam_losses import View
    from wsseg.nets.cam_head import ClassMapNet, Step


class Seam(MethodConfig):
    """Settings of SEAM."""

    name: Literal["seam"] = Field(
        "seam", description="Two sizes of each image must agree; alike cells share scores."
    )
    scale: float = Field(0.3, gt=0, lt=1, description="Size of the second view, as a factor.")
    er_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the equivariant regularisation; 0: none."
    )
    ecr_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the equivariant cross regularisation; 0: none."
    )
    rvmin_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of the auxiliary term of the released code, which keeps a quarter of "
        "each image free of refined evidence; 0: none.",
    )
    hard_fraction: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Fraction of the cross regularisation's errors that counts, the largest of "
        "each image; 1: all.",
    )
    stages: tuple[Annotated[int, Field(ge=-1, le=8)], ...] | None = Field(
        None,
        description="Stages of the backbone that the pixel correlation looks at; null: the two "
        "before the last.",
    )


class SeamRegulariser(Regulariser):
    """Runs both views, adds the losses between them, and refines maps."""

    config_class: ClassVar[type[MethodConfig]] = Seam
    config: Seam
    runs_forward: ClassVar[bool] = True

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:
        """Refuse localizers whose maps are not those of one head, and extractors without them.

        Raises:
            RecipeError: When seam cannot work with the localizer or the extraction of its maps.
        """
        from wsseg.nets.cam_head import ClassMapNet

        if type(net) is not ClassMapNet:
            raise RecipeError(
                f'seam runs the network in its own way, which localizer "{config.name}" does not '
                "allow. Use localizer cam, or remove seam from localize.regularisers."
            )
        extractor, rule = config.inference.extractor.name, config.inference.normalise
        if extractor != "cam" or rule == "absolute":
            raise RecipeError(
                "seam refines the class maps, which are no logits then, so that it needs extractor "
                f"cam and a normalise rule other than absolute; they are {extractor} and {rule}. "
                "Set localize.inference.extractor.name=cam and localize.inference.normalise=minmax."
            )

    def build(self, net: ClassMapNet) -> nn.Module:
        """Make the pixel correlation module."""
        from wsseg.nets.pixel_correlation import PixelCorrelation

        return PixelCorrelation(net.backbone, self.config.stages)

    def step(self, net: ClassMapNet, batch: dict[str, Tensor]) -> Step:
        """Run the image and, while training, the smaller image."""
        import torch
        import torch.nn.functional as F

        from wsseg.localize.regularise.seam_losses import SeamStep

        images, valid = batch["image"], batch.get("valid")
        views = [self._view(net, images, valid)]
        if net.training:
            height, width = (max(1, int(side * self.config.scale)) for side in images.shape[2:])
            small = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=True)
            if valid is not None:
                valid = F.interpolate(valid.float(), size=(height, width), mode="nearest-exact")
            views.append(self._view(net, small, valid))
        logits = torch.cat([view.logits for view in views])
        return SeamStep(batch, views[0].features, views[0].cells, logits, tuple(views))

    def _view(self, net: ClassMapNet, images: Tensor, valid: Tensor | None) -> View:
        from wsseg.localize.regularise.seam_losses import View, enlarged, evidence
        from wsseg.nets.pixel_correlation import lateral_modules, run_with_laterals

        laterals = lateral_modules(net.backbone, self.config.stages)
        features, grids = run_with_laterals(net.backbone, images, laterals)
        cells = net.head(net.dropout(features))
        refined = net.extras[self.name](evidence(cells), images, grids)
        maps = enlarged(cells, images)
        return View(features, cells, refined, maps, net.pooled(maps, valid))

    def refined(self, net: ClassMapNet, step: Step) -> Tensor:  # noqa: ARG002
        """Give the refined scores of the classes."""
        from wsseg.localize.regularise.seam_losses import SeamStep

        if not isinstance(step, SeamStep):
            raise TypeError(f"Expected a SeamStep, but got {type(step).__name__}.")
        return step.views[0].refined[:, 1:]

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:  # noqa: ARG002
        """Compute the losses between the two views."""
        import torch

        from wsseg.localize.regularise import seam_losses as losses

        if not isinstance(step, losses.SeamStep):
            raise TypeError(f"Expected a SeamStep, but got {type(step).__name__}.")
        large, small = step.views
        # A blend of two images shows the classes of both.
        present = (step.batch["tags"] > 0).float()
        foreground = present[:, :, None, None]
        shown = torch.cat([torch.ones_like(foreground[:, :1]), foreground], dim=1)
        c1 = losses.enlarged(losses.stretched(large.maps), small.maps) * foreground
        c2 = losses.stretched(small.maps) * foreground
        rv1, rv2 = large.refined_maps(), small.refined_maps()
        terms = {}
        config = self.config
        if config.er_weight > 0:
            terms["seam_er"] = config.er_weight * losses.equivariance(c1, c2)
        if config.ecr_weight > 0:
            r1 = losses.enlarged(losses.stretched(rv1), small.maps) * shown
            r2 = losses.stretched(rv2) * shown
            both = losses.cross_regularisation(c2, r1, config.hard_fraction)
            both = both + losses.cross_regularisation(c1, r2, config.hard_fraction)
            terms["seam_ecr"] = config.ecr_weight * both
        if config.rvmin_weight > 0:
            lows = [losses.lowest_quarter(rv[:, 1:], present) for rv in (rv1, rv2)]
            terms["seam_rvmin"] = config.rvmin_weight * (lows[0] + lows[1]) / 2
        return terms
