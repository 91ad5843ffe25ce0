"""Patch features of images for `wsseg.cues.anomaly`: cells of any backbone, stages stacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.cues.anomaly_config import Anomaly
from wsseg.data.colour import normalise
from wsseg.errors import RecipeError

if TYPE_CHECKING:
    from wsseg.nets.backbones import Backbone
    from wsseg.nets.cam_head import ClassMapNet

# Stages that the papers take, numbered as in `Backbone.stage_modules`.
_STAGES = {"padim": (1, 2, 3), "patchcore": (2, 3)}
_FEATURE_STREAM = 11


class PatchFeatures:
    """Turns images into cells of features.

    Args:
        backbone: The network; set to evaluation mode.
        config: Which stages, image size and number of features.
        seed: Chooses the features.
        device: Where the network runs.

    Raises:
        RecipeError: When the network lacks a stage that is asked for.
    """

    def __init__(self, backbone: Backbone, config: Anomaly, *, seed: int, device: str) -> None:
        self.backbone = backbone.eval().requires_grad_(False).to(device)
        self.config = config
        self.device = device
        self.places = _places(backbone, config)
        self.seed = seed
        self._channels: Tensor | None = None

    def size_of(self, image: np.ndarray) -> tuple[int, int]:
        """Tell the size (H, W) that an image is brought to."""
        side = self.config.side_px
        if self.config.method == "padim":
            return side, side  # positions are compared, so all images need the same grid
        height, width = image.shape[:2]
        scale = side / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __call__(self, image: np.ndarray) -> Tensor:
        """Compute the cells of one image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (h, w, D) float32 on the CPU, D at most ``config.num_features``.
        """
        import cv2

        height, width = self.size_of(image)
        is_smaller = height * width < image.shape[0] * image.shape[1]
        method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        resized = cv2.resize(image, (width, height), interpolation=method).astype(np.uint8)
        channels: Literal[1, 3] = 1 if self.backbone.in_channels == 1 else 3
        planes = torch.from_numpy(normalise(resized, channels))[None].to(self.device)
        with torch.inference_mode():
            stacked = self._stacked(planes)
        return stacked[0].permute(1, 2, 0).float().cpu()

    def _stacked(self, images: Tensor) -> Tensor:
        """Stack the stages on the finest of their grids, (1, D, h, w)."""
        if self.places:
            stages = self.backbone.stages(images)
            chosen = [stages[place] for place in self.places]
        else:
            chosen = [self.backbone(images)]
        if self.config.method == "patchcore":
            # Every cell looks at its neighbours (the paper's patches of 3 x 3 cells).
            chosen = [F.avg_pool2d(s, 3, 1, 1, count_include_pad=False) for s in chosen]
        size = max((stage.shape[-2:] for stage in chosen), key=lambda s: s[0] * s[1])
        same = [F.interpolate(s, size=size, mode="bilinear", align_corners=False) for s in chosen]
        stacked = torch.cat(same, dim=1)
        return stacked[:, self._chosen(stacked.shape[1]).to(stacked.device)]

    def _chosen(self, count: int) -> Tensor:
        """Draw which channels are kept, always the same ones."""
        from wsseg.training.seeds import generator

        if self._channels is None:
            kept = min(count, self.config.num_features)
            drawn = generator(self.seed, stream=_FEATURE_STREAM).permutation(count)[:kept]
            self._channels = torch.from_numpy(np.sort(drawn))
        return self._channels


def load_features(
    config: Anomaly,
    localizer: Callable[[], ClassMapNet] | None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> PatchFeatures:
    """Make the network whose features are compared.

    Args:
        config: Which network.
        localizer: Loads the run's trained localizer; None where there is none.
        seed: Seed of random weights and of the choice of features.
        device: Where it runs.

    Returns:
        The features.

    Raises:
        RecipeError: When the localizer is wanted and there is none, or the network does not exist
            or lacks a stage.
        MissingWeightsError: When weights cannot be had or do not fit.
    """
    from wsseg.nets.build import build_backbone
    from wsseg.training.seeds import isolated_rng, seed_everything

    with isolated_rng():
        seed_everything(seed)
        if config.init == "localizer":
            if localizer is None:
                raise RecipeError(
                    "The cue `anomaly` compares features of the run's localizer, and there is "
                    "none. Set its init to none, imagenet or a weight file, and its backbone."
                )
            backbone = localizer().backbone
        else:
            backbone = build_backbone(
                config.backbone or "resnet18",
                weights=config.init,
                output_stride=config.output_stride,
            )
    return PatchFeatures(backbone, config, seed=seed, device=device)


def _places(backbone: Backbone, config: Anomaly) -> list[int]:
    """Find the places of the wanted stages in what `Backbone.stages` returns."""
    there = list(backbone.stage_modules())
    if config.stages is not None:
        missing = [stage for stage in config.stages if stage not in there]
        if missing:
            raise RecipeError(
                f'Backbone "{backbone.name}" has no stage {", ".join(map(str, missing))}; it has '
                f"{there}. Change the stages of the cue `anomaly`, or leave them null."
            )
        return [there.index(stage) for stage in config.stages]
    wanted = [there.index(stage) for stage in _STAGES[config.method] if stage in there]
    return wanted or ([len(there) - 1] if there else [])


def to_pixels(
    cells: npt.NDArray[np.float32], size: tuple[int, int], sigma_px: float
) -> npt.NDArray[np.float32]:
    """Enlarge a map of cells and blur it.

    Args:
        cells: (h, w).
        size: (H, W) wanted.
        sigma_px: Gaussian blur in pixels of that size; 0: none.

    Returns:
        (H, W) float32.
    """
    import cv2

    full = cv2.resize(cells, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    if sigma_px > 0:
        full = cv2.GaussianBlur(full, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return full.astype(np.float32, copy=False)
