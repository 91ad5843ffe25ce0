"""S2C: what segments know goes into the classifier while it trains.

Reference: Kweon and Yoon, "From SAM to CAMs: Exploring Segment Anything Model for Weakly Supervised
Semantic Segmentation", CVPR 2024. Two losses beside that of the classifier, weights 1:

* contrast of segments: the features of a pixel shall be those of its own segment rather than of
  the other segments of the image;
* prompting by class maps, from the third epoch on: peaks of the class maps ask for segments, whose
  classes are settled by mask logit times mean map, and every pixel's class teaches the maps.

See `wsseg.localize.regularise.s2c_losses` and `wsseg.localize.regularise.s2c_targets`.

Differences: any backend of `wsseg.cues.segments`, of which the last answer to a prompt counts (the
whole object; the code's third of three); a backend without logits counts as a logit of 1 in its
masks, and is asked by every peak on its own, of which those of little support are left out
(`min_support`), as nothing else says that a segment does not belong to the class; crops of any
shape; padding counts in no loss; an image with a class for which no segment is found takes no part
in the second loss, instead of teaching that the class is not there; peaks at the edge of the image
count. The classes of the contrast are the segments of the image alone, and not what lies in none.
`dim` puts a layer with rectification between backbone and class maps, as in the code; null compares
the backbone's features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from wsseg import console, registry
from wsseg.config import MethodConfig
from wsseg.cues.segments import SegmentsField
from wsseg.cues.segments_config import Superpixels
from wsseg.errors import RecipeError
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.cues.protocol import CueInputs
    from wsseg.localize.aligned import AlignedMap
    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet, Step

BATCH_NAME = "segments"
# They blend images, so that a pixel has no segment of its own any more.
_BLENDERS = ("cutmix", "mixup_cam")


class S2c(MethodConfig):
    """Settings of S2C."""

    name: Literal["s2c"] = Field(
        "s2c", description="Features agree within segments; peaks of maps ask for segments."
    )
    segments: SegmentsField = Field(
        Superpixels(),
        description="Where segments come from: superpixels (null, too), sam or folder.",
    )
    overlap: Literal["score", "area"] = Field(
        "score",
        description="Which of overlapping segments a pixel belongs to: score, the better one, as "
        "in the code; area, the smaller one.",
    )
    dim: int | None = Field(
        256,
        ge=1,
        le=8192,
        description="Channels of the layer between backbone and class maps whose features are "
        "compared; null: no such layer, those of the backbone.",
    )
    ssc_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the contrast of segments; 0: none."
    )
    temperature: float = Field(
        1.0, gt=0, le=1000, description="Factor of the cosine in the contrast of segments."
    )
    stride_px: int = Field(
        1,
        ge=1,
        le=64,
        description="Every how many pixels features are compared; 1 is the paper's, larger is "
        "faster.",
    )
    cpm_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the prompting by class maps; 0: none."
    )
    start_epoch: int = Field(
        2,
        ge=0,
        le=100_000,
        description="Epoch, from 0, from which maps are prompts; 2 is for pre-trained weights. "
        "From scratch maps are wrong for longer: about half of the epochs.",
    )
    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        (0.5, 1.0, 1.5, 2.0),
        min_length=1,
        description="Factors of the crop over which the maps are summed that are prompts.",
    )
    min_peak: float = Field(0.5, ge=0, le=1, description="Least value of a second peak.")
    peak_distance_px: int = Field(20, ge=1, le=1000, description="Peaks are farther apart.")
    min_support: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Backends without logits (superpixels, folder): the segment of a further peak "
        "counts when the mean of the map over it is at least this share of the mean over the "
        "segment of the highest peak; 0: all count.",
    )


class _Shared(dict[Any, Any]):
    """What is loaded once; a copy of the network does not copy it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class S2cRegulariser(Regulariser):
    """Adds the two losses, and asks for the map of segments beside every training image."""

    config_class: ClassVar[type[MethodConfig]] = S2c
    config: S2c
    epoch: int = 0
    epochs: int | None = None

    def __init__(self, config: S2c) -> None:
        super().__init__(config)
        self.shared = _Shared()

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:
        """Refuse networks without one head, and regularisers that blend images.

        Raises:
            RecipeError: Saying what contradicts and what to change.
        """
        from wsseg.nets.cam_head import ClassMapNet

        self.epochs = config.training.epochs
        if self.config.dim is not None and type(net) is not ClassMapNet:
            raise RecipeError(
                "dim of s2c puts a layer in front of the class maps, which localizer "
                f'"{config.name}" makes in its own way. Set dim to null, or use localizer cam.'
            )
        names = [str(one.model_dump()["name"]) for one in config.regularisers]
        blenders = [name for name in names if name in _BLENDERS]
        if blenders:
            raise RecipeError(
                f"s2c needs the segments of each image, which {' and '.join(blenders)} blends with "
                "another. Remove one of them from localize.regularisers."
            )

    def build(self, net: ClassMapNet) -> None:
        """Put the layer whose features are compared in front of the class maps."""
        if self.config.dim is None:
            return
        from torch import nn

        embed = nn.Conv2d(net.head.in_channels, self.config.dim, 1, bias=False)
        classify = nn.Conv2d(self.config.dim, net.num_classes, 1, bias=net.head.bias is not None)
        nn.init.kaiming_normal_(embed.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(classify.weight)
        if classify.bias is not None:
            nn.init.zeros_(classify.bias)
        net.head = nn.Sequential(embed, nn.ReLU(), classify)  # type: ignore[assignment]

    def aligned_maps(self, inputs: CueInputs) -> dict[str, AlignedMap]:
        """Ask for the map of segments of every training image, where a loss looks at it."""
        from wsseg.cues.segments_source import SegmentMaps

        config = self.config
        if config.cpm_weight > 0 and self.epochs is not None and config.start_epoch >= self.epochs:
            console.warning(
                f"start_epoch of s2c is {config.start_epoch}, and there are {self.epochs} epochs: "
                "maps will never ask for segments. Lower start_epoch, or set cpm_weight to 0."
            )
        if not self._needs_maps():
            return {}
        maps = SegmentMaps(
            self.config.segments,
            inputs.folder / "segments",
            overlap=self.config.overlap,
            device=inputs.device,
            max_side_px=inputs.max_side_px,
            shared=self.shared,
        )
        return {BATCH_NAME: maps}

    def on_epoch_start(self, epoch: int) -> None:
        """Remember the epoch.

        Args:
            epoch: From 0.
        """
        self.epoch = epoch

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:
        """Compute the losses of a training pass."""
        from wsseg.localize.regularise.s2c_losses import contrast_loss, prompted_loss

        if self._needs_maps() and BATCH_NAME not in step.batch:
            raise ValueError(
                f'Expected "{BATCH_NAME}" (N, 1, H, W) in the batch: train on TagData with maps '
                "of wsseg.localize.aligned.aligned_maps."
            )
        config = self.config
        found: dict[str, Tensor] = {}
        if config.ssc_weight > 0:
            features = step.features if config.dim is None else net.head[:2](step.features)  # type: ignore[index]
            loss = contrast_loss(
                features, step.batch[BATCH_NAME], config.temperature, config.stride_px
            )
            found["s2c_ssc"] = config.ssc_weight * loss
        if config.cpm_weight > 0 and self.epoch >= config.start_epoch:
            targets = self._targets(net, step)
            found["s2c_cpm"] = config.cpm_weight * prompted_loss(
                step.maps, step.batch["tags"], targets, step.batch.get("valid")
            )
        return found

    def _targets(self, net: ClassMapNet, step: Step) -> Tensor:
        """Let the maps ask for segments: class of every pixel, (N, H, W)."""
        import numpy as np
        import torch

        from wsseg.cues.segments import SegmentsContext, open_segments
        from wsseg.cues.segments_folder import LabelMapSegments
        from wsseg.localize.regularise.s2c_losses import summed_maps
        from wsseg.localize.regularise.s2c_targets import PeakRule, crop_pixels, prompted_classes

        batch, settings = step.batch, self.config.segments
        maps = summed_maps(net, batch, self.config.scales).cpu().numpy()
        present = batch["tags"].cpu().numpy() > 0
        valid = None if "valid" not in batch else batch["valid"][:, 0].cpu().numpy() > 0
        crops = crop_pixels(batch["image"].float().cpu().numpy())
        device = "cpu" if batch["image"].device.type == "cpu" else str(batch["image"].device)
        backend = registry.load("segments", str(settings.model_dump()["name"]))
        is_of_files = getattr(backend, "needs_whole_images", False)
        ids = batch[BATCH_NAME][:, 0].cpu().numpy() if is_of_files else None
        rule = PeakRule(self.config.peak_distance_px, self.config.min_peak, self.config.min_support)
        rows = []
        for index, crop in enumerate(crops):
            # Segments that belong to files cannot be had for a crop: those of the map answer.
            if ids is not None:
                opened: Any = LabelMapSegments(ids[index])
            else:
                context = SegmentsContext(device=device, shared=self.shared)
                opened = open_segments(crop, settings, context)
            seen = None if valid is None else valid[index]
            rows.append(prompted_classes(maps[index], present[index], opened, rule, seen))
        return torch.from_numpy(np.stack(rows)).to(step.maps.device)

    def _needs_maps(self) -> bool:
        """Tell whether a loss looks at the map of segments that was made of the whole image."""
        backend = registry.load("segments", str(self.config.segments.model_dump()["name"]))
        prompts_map = self.config.cpm_weight > 0 and getattr(backend, "needs_whole_images", False)
        return self.config.ssc_weight > 0 or prompts_map
