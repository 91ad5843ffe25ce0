"""One face for all backbones: normalised images in, a grid of features at a chosen stride out.

Any timm network works, convolutional or transformer, besides the two networks of the literature
that timm does not have (`resnet38d`, `vgg16_largefov`). What a network can do is found out by
running it once on a small image, never by its name; a wish that it cannot fulfil is an error that
says what it can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.data.colour import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD
from wsseg.errors import RecipeError
from wsseg.nets.alignment import first_centre, strided_layers
from wsseg.nets.local_contrast import LocalContrast

Layout = Literal["nchw", "nhwc", "tokens"]
STRIDES = (32, 16, 8, 4)
_CHECK_PX = 64


class Backbone(nn.Module):
    """A network without classifier behind one interface.

    Use `wsseg.nets.build.build_backbone` to make one.

    Args:
        trunk: Network with ``forward_features`` and timm's ``feature_info``.
        name: Its name, for messages.
        in_channels: Channels of the images, 3 or 1.

    Attributes:
        num_features: D, channels of the features.
        stride: Pixels per cell of the features.
        size_multiple: Image sides that are no multiple of this are padded inside; multiples of
            ``max(stride, size_multiple)`` make cells and pixels line up.
        map_exponent: Class maps are raised to this power when they are extracted (1: not).
        local_contrast: What images go through first; None: nothing.
    """

    trunk: Any
    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, trunk: Any, name: str, in_channels: int = 3) -> None:
        super().__init__()
        self.trunk = trunk
        self.name = name
        self.in_channels = in_channels
        self.map_exponent = float(getattr(trunk, "map_exponent", 1.0))
        self.size_multiple = patch_size(trunk)
        self.layout: Layout = layout_of(trunk)
        self.freezes_batchnorm = False
        self._frozen_norms: list[nn.Module] = []
        self.local_contrast: LocalContrast | None = None
        self.register_buffer("input_scale", torch.ones(in_channels))
        self.register_buffer("input_shift", torch.zeros(in_channels))
        self.stride = 1
        self.num_features, self.stride = self._measure()
        if not self._takes_any_size():
            self.size_multiple = max(STRIDES)
        self._stages = self._find_stages()
        self._centres: dict[int, float] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of the last layer.

        Args:
            images: (N, in_channels, H, W) float, normalised as `wsseg.data.transforms.normalise`
                does; other statistics that the weights want are converted inside.

        Returns:
            (N, D, ceil(H / stride), ceil(W / stride)) float.
        """
        size = (images.shape[-2], images.shape[-1])
        return self.as_grid(self.trunk.forward_features(self.prepared(images)), size)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Compute the features at the end of each stage, coarsest last.

        Args:
            images: (N, in_channels, H, W) float, normalised.

        Returns:
            One (N, D_i, h_i, w_i) per stage of `stage_modules`.
        """
        size = (images.shape[-2], images.shape[-1])
        modules = list(self.stage_modules().values())
        with captured(modules) as outputs:
            self.trunk.forward_features(self.prepared(images))
        return [self.as_grid(outputs[module], size) for module in modules]

    def stage_modules(self) -> dict[int, nn.Module]:
        """Find the module at the end of each stage.

        Returns:
            ``{stage: module}``. Stage k of a convolutional network is the one that reduces the
            image by 2^(k + 1) as it was published, so that 2 is ``layer2`` of a ResNet and 0 the
            stem. A transformer has four stages of equally many blocks.
        """
        return {stage: self.trunk.get_submodule(name) for stage, name in self._stages.items()}

    def first_centre(self, stride_px: int) -> float:
        """Tell which pixel the first cell of the features of a stage is centred on.

        Args:
            stride_px: Pixels per cell of the stage.

        Returns:
            Pixels, 0 for the middle of the first pixel: 0 for a ResNet, (stride - 1) / 2 where
            cells are centred; see `wsseg.nets.alignment`.
        """
        if stride_px not in self._centres:
            device = next(self.trunk.parameters()).device
            side = max(_CHECK_PX, 2 * self.size_multiple)
            with torch.no_grad(), strided_layers(self.trunk) as layers:
                self._run_check(device=device)
            self._centres[stride_px] = first_centre(layers, side, stride_px)
        return self._centres[stride_px]

    def _find_stages(self) -> dict[int, str]:
        """Name the modules that end a stage; branching networks lack some."""
        chosen = published_stages(self.trunk)
        if not chosen:
            return {}
        modules = dict(self.trunk.named_modules())
        existing = {stage: modules[name] for stage, name in chosen.items() if name in modules}
        with torch.no_grad(), captured(list(existing.values())) as outputs:
            self._run_check()
        return {stage: chosen[stage] for stage, module in existing.items() if module in outputs}

    def as_grid(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Bring the output of the trunk or of one of its stages to (N, D, h, w).

        Args:
            features: (N, D, h, w), (N, h, w, D) or (N, tokens, D), as the trunk makes them.
            image_size: (H, W) of the images that they come from.

        Returns:
            (N, D, h, w), a view where possible.
        """
        padded = [side + -side % self.size_multiple for side in image_size]
        if features.ndim == 3:
            # Class and register tokens come first.
            height, width = (side // self.stride for side in padded)
            patches = features[:, features.shape[1] - height * width :]
            features = patches.transpose(1, 2).unflatten(2, (height, width))
        elif self.layout == "nhwc":
            features = features.permute(0, 3, 1, 2)
        kept = [
            -(-cells * side // whole)
            for cells, side, whole in zip(features.shape[2:], image_size, padded, strict=True)
        ]
        return features[..., : kept[0], : kept[1]]

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode, keeping frozen normalisation in evaluation mode."""
        super().train(mode)
        for module in self._frozen_norms:
            module.eval()
        return self

    def freeze_batchnorm(self) -> None:
        """Use the running statistics of all batch normalisation always, and train none of it."""
        self.freezes_batchnorm = True
        self._freeze_norms(self.trunk.modules())

    def freeze_through(self, stage: int) -> None:
        """Train nothing up to the end of a stage, as by cutting the gradient there.

        Args:
            stage: A key of `stage_modules`.

        Raises:
            RecipeError: When the network has no such stage.
        """
        modules = self.stage_modules()
        if stage not in modules:
            raise RecipeError(
                f'Backbone "{self.name}" has no stage {stage}; it has {sorted(modules)}. '
                "Set localize.stop_gradient_after_stage to one of them, or to null."
            )
        with torch.enable_grad(), captured([modules[stage]]) as outputs:
            self._run_check()
        used = self._parameters_behind(outputs[modules[stage]])
        frozen = [module for module in self.trunk.modules() if _own_parameters_in(module, used)]
        for parameter in used:
            parameter.requires_grad_(False)
        self._freeze_norms(iter(frozen))

    def normalise_like(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Convert images inside to the statistics that the weights were trained with.

        Args:
            mean: Mean per channel in [0, 1], red first.
            std: Deviation per channel.
        """
        ours_mean, ours_std = IMAGENET_MEAN, IMAGENET_STD
        if self.in_channels == 1:
            ours_mean, ours_std = (GREY_MEAN,) * 3, (GREY_STD,) * 3
            mean, std = (sum(mean) / 3,) * 3, (sum(std) / 3,) * 3
        rows = list(zip(ours_mean, ours_std, mean, std, strict=True))[: self.in_channels]
        scale = [our_std / their_std for _, our_std, _, their_std in rows]
        shift = [(our_mean - m) / s for our_mean, _, m, s in rows]
        self.input_scale.copy_(self.input_scale.new_tensor(scale))
        self.input_shift.copy_(self.input_shift.new_tensor(shift))

    def freeze_unused(self) -> None:
        """Exclude parameters that do not reach the features, such as a classifier's norm."""
        with torch.enable_grad():
            features = self._run_check()
        used = {id(parameter) for parameter in self._parameters_behind(features)}
        for parameter in self.trunk.parameters():
            if id(parameter) not in used:
                parameter.requires_grad_(False)

    def prepared(self, images: Tensor) -> Tensor:
        """Convert images to what the trunk takes: statistics, colour order, size.

        Args:
            images: (N, in_channels, H, W) float, normalised.

        Returns:
            (N, in_channels, H', W') float, padded right and below where the trunk wants it.
        """
        if self.local_contrast is not None:
            images = self.local_contrast(images)
        images = images * self.input_scale[:, None, None] + self.input_shift[:, None, None]
        if self.in_channels == 3 and getattr(self.trunk, "is_bgr", False):
            images = images.flip(1)
        extra = [-side % self.size_multiple for side in images.shape[-2:]]
        return F.pad(images, (0, extra[1], 0, extra[0])) if any(extra) else images

    def _run_check(self, extra_width: int = 0, device: torch.device | None = None) -> Tensor:
        """Run the trunk on a small grey image in evaluation mode."""
        side = max(_CHECK_PX, 2 * self.size_multiple)
        was_training = self.training
        self.eval()
        try:
            images = torch.zeros(1, self.in_channels, side, side + extra_width, device=device)
            features: Tensor = self.trunk.forward_features(self.prepared(images))
            return features
        finally:
            self.train(was_training)

    def _measure(self) -> tuple[int, int]:
        """Tell the channels and the stride from one run."""
        with torch.no_grad():
            features = self._run_check()
        side = max(_CHECK_PX, 2 * self.size_multiple)
        if features.ndim == 3:
            prefix = int(getattr(self.trunk, "num_prefix_tokens", 0))
            cells = math.isqrt(features.shape[1] - prefix)
            return features.shape[2], side // cells
        grid = self.as_grid(features, (side, side))
        return grid.shape[1], round(side / grid.shape[2])

    def _takes_any_size(self) -> bool:
        """Try a width that is no multiple of 32; networks that merge branches want one."""
        if self.size_multiple > 1:
            return True
        try:
            with torch.no_grad():
                self._run_check(extra_width=self.stride + 1)
        except RuntimeError:
            return False
        return True

    def _parameters_behind(self, output: Tensor) -> list[nn.Parameter]:
        """Find the trainable parameters that an output depends on."""
        candidates = [p for p in self.trunk.parameters() if p.requires_grad]
        if not output.requires_grad:
            return []
        gradients = torch.autograd.grad(output.sum(), candidates, allow_unused=True)
        return [p for p, g in zip(candidates, gradients, strict=True) if g is not None]

    def _freeze_norms(self, modules: Iterator[nn.Module]) -> None:
        norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for module in norms:
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        known = {id(module) for module in self._frozen_norms}
        self._frozen_norms += [module for module in norms if id(module) not in known]
        self.train(self.training)


@contextmanager
def captured(modules: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the outputs of modules while the block runs; nothing stays attached afterwards.

    Args:
        modules: Modules of one network.

    Yields:
        Filled by each forward pass: ``{module: its output}``.
    """
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _inputs: Any, output: Any) -> Any:
        # A block of ResNet-38 also returns its normalised input.
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):
            return output
        outputs[module] = first
        # Later layers may write in place into what they are given.
        copy = first.clone()
        return (copy, *output[1:]) if isinstance(output, tuple) else copy

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def feature_info(trunk: Any) -> list[dict[str, Any]]:
    """List what a network says about its stages: ``module``, ``reduction``, ``num_chs`` of each.

    Args:
        trunk: The network.
    """
    info: Any = getattr(trunk, "feature_info", None) or []
    return list(getattr(info, "info", info))


def published_stages(trunk: Any) -> dict[int, str]:
    """Name the module that a network says ends each stage, whether it exists or not.

    Args:
        trunk: The network.

    Returns:
        ``{stage: module name}``, numbered as in `Backbone.stage_modules`.
    """
    entries = feature_info(trunk)
    names = [entry["module"] for entry in entries]
    if not names:
        return {}
    if layout_of(trunk) == "tokens":
        return {k: names[math.ceil(len(names) * k / 4) - 1] for k in range(1, 5)}
    first = int(math.log2(entries[0]["reduction"])) - 1
    return dict(enumerate(names, start=first))


def patch_size(trunk: Any) -> int:
    """Tell the patch size of a transformer that works on tokens; 1 for all other networks.

    Args:
        trunk: The network.
    """
    if layout_of(trunk) != "tokens":
        return 1
    size = trunk.patch_embed.patch_size
    return int(size[0] if isinstance(size, tuple | list) else size)


def layout_of(trunk: Any) -> Layout:
    """Tell how a network lays out its features.

    Args:
        trunk: The network.
    """
    if str(getattr(trunk, "output_fmt", "")).rpartition(".")[2].lower() == "nhwc":
        return "nhwc"
    is_plain = hasattr(trunk, "patch_embed") and hasattr(trunk, "num_prefix_tokens")
    return "tokens" if is_plain else "nchw"


def _own_parameters_in(module: nn.Module, parameters: list[nn.Parameter]) -> bool:
    own = list(module.parameters(recurse=False))
    known = {id(parameter) for parameter in parameters}
    return bool(own) and all(id(parameter) in known for parameter in own)
