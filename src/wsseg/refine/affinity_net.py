"""AffinityNet (PSA): learn which neighbouring pixels belong together, then let the maps walk there.

1. Two dense CRFs with much and with little background, (1 - max_c s_c)^alpha, tell which pixels
   of the training images are confident (`wsseg.refine.confident`).
2. A network learns features whose distance tells whether two cells within a radius share their
   label (`wsseg.nets.affinity_net`). It starts from the run's classifier.
3. Background and class maps take 256 steps of a random walk over the cells
   (`wsseg.refine.affinity_walk`).

Only the maps and the tags of the train split are used, and only the class rows of the maps: a
background rule before this step changes nothing, because row 0 is made anew, twice. Behind
localizers that know the background it is used, and the walk fills what they left open
(`wsseg.refine.known_labels`).

Reference: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
for Weakly Supervised Semantic Segmentation", CVPR 2018. Differences: any backbone; the walk is
computed without its (hw)² matrix; the default learning rate is the one that works for ResNet-38,
a tenth of the published code's, the hue is not jittered unless asked, and features are drawn where
their cells look unless ``align_cells`` is false.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsseg.config import MethodConfig
from wsseg.data.colour import normalise
from wsseg.data.dataset import Dataset
from wsseg.data.scores import Scores
from wsseg.errors import RecipeError
from wsseg.refine.affinity_config import AffinityNet
from wsseg.refine.affinity_data import (
    FOLDER,
    AffinityData,
    TwoAlphas,
    confident_shares,
    make_confident,
)
from wsseg.refine.affinity_walk import propagated, propagated_known
from wsseg.refine.known_labels import can_fill
from wsseg.refine.protocol import FitInputs, RefineContext, check_image
from wsseg.rundir import StageDir, fingerprint
from wsseg.training.config import RESULT_NEUTRAL_FIELDS

if TYPE_CHECKING:
    from wsseg.nets.affinity_net import AffinityNet as Network
    from wsseg.nets.backbones import Backbone
    from wsseg.nets.cam_head import ClassMapNet

__all__ = ["AffinityNet", "AffinityNetRefiner", "affinity_net", "make_backbone", "with_heads"]

VERSION = 1
# Settings that the trained network does not depend on.
_OF_THE_WALK = {"alpha_walk", "beta", "log2_steps", "links", "walk"}


class AffinityNetRefiner:
    """Trains an AffinityNet on the run's maps and lets the maps walk with its affinities."""

    config_class: type[MethodConfig] = AffinityNet

    def check(self, dataset: Dataset, *, config: AffinityNet, allow_masks: bool) -> None:  # noqa: ARG002
        """Refuse a network that cannot be made, before the run starts.

        Args:
            dataset: The data set; not used.
            config: The settings; nothing is checked where the network is the localizer's.
            allow_masks: Not used: masks tune nothing here.

        Raises:
            RecipeError: When the backbone cannot do what is asked.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        if config.init != "localizer":
            with_heads(make_backbone(config, None), config)

    def check_localizer(self, network: ClassMapNet, *, config: AffinityNet) -> None:
        """Refuse a localizer whose network cannot learn affinities, before the run starts.

        Args:
            network: The run's localizer, trained or not.
            config: The settings.

        Raises:
            RecipeError: When its backbone cannot do what is asked.
        """
        if config.init == "localizer":
            with_heads(make_backbone(config, lambda: network), config)

    def training_settings(self, config: AffinityNet) -> dict[str, Any]:
        """List what the network depends on; what only the walk uses is left out.

        Args:
            config: The settings.

        Returns:
            JSON-able.
        """
        neutral = dict.fromkeys(_OF_THE_WALK, True) | {"training": set(RESULT_NEUTRAL_FIELDS)}
        return config.model_dump(mode="json", exclude=neutral)

    def fit(self, inputs: FitInputs, *, config: AffinityNet) -> dict[str, Any]:
        """Find the confident areas of the training images and train the network on them.

        Args:
            inputs: The data set with its scores; only the train split is looked at.
            config: The settings.

        Returns:
            JSON-able: ``weights`` (relative to the folder), the ``confident`` shares, ``notes``,
            and ``tuned_on_masks``, which is False.

        Raises:
            DataError: When no image shows anything confident to tell apart.
            RecipeError: When the network cannot be made, or the training diverges.
            MissingWeightsError: When weights cannot be had or do not fit.
        """
        from wsseg.training.loop import fit
        from wsseg.training.seeds import seed_everything

        rule = TwoAlphas(config.alpha_low, config.alpha_high, config.crf)
        scores = (VERSION, inputs.scores_fingerprint or inputs.fingerprint, inputs.max_side_px)
        stage = StageDir(
            inputs.folder / FOLDER,
            fingerprint(*scores, rule.alpha_low, rule.alpha_high, rule.crf.model_dump()),
        )
        samples = make_confident(inputs, rule, stage)
        shares = confident_shares(samples, stage)
        seed_everything(inputs.seed)
        backbone = make_backbone(config, inputs.localizer)
        # Loading a localizer draws random numbers, or none where it is at hand.
        seed_everything(inputs.seed)
        network = with_heads(backbone, config)
        network.freeze_unused()
        data = AffinityData(
            samples,
            stage,
            config.augment,
            stride_px=config.stride_px,
            in_channels=1 if network.backbone.in_channels == 1 else 3,
            max_side_px=inputs.max_side_px,
        )
        result = fit(
            network,
            data,
            config.training,
            inputs.folder / "training",
            seed=inputs.seed,
            title="refine: train affinity_net",
            fingerprint=fingerprint(*scores, inputs.fingerprint, self.training_settings(config)),
        )
        return {
            "tuned_on_masks": False,
            "weights": result.weights_path.relative_to(inputs.folder).as_posix(),
            "confident": asdict(shares),
            "notes": [shares.text()],
        }

    def __call__(
        self,
        image: npt.NDArray[np.uint8],
        scores: Scores,
        *,
        config: AffinityNet = AffinityNet(),
        context: RefineContext | None = None,
    ) -> Scores:
        """Let the maps of one image walk with the learned affinities.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            scores: Scores of that image; row 0 is not used. Not changed.
            config: The settings that the network was trained with.
            context: ``state``, ``folder`` and ``shared`` of the stage, and its ``localizer`` where
                the network is that of the localizer.

        Returns:
            Scores of the same classes at full size (K, H, W), with a new background row. An image
            without classes is background everywhere. With ``context.knows_background`` known
            pixels keep their scores, and nothing changes where no background, or no class, is
            known.

        Raises:
            DataError: When the image does not belong to the scores.
            RecipeError: When the network was not trained before.
            MissingWeightsError: When its weights are not in the folder.
        """
        check_image(image, scores)
        context = context or RefineContext()
        if context.knows_background and not can_fill(scores):
            return scores
        if len(scores.class_ids) == 1:
            return replace(scores, values=np.ones_like(scores.values))
        features = _features(_loaded(config, context), image, context.device)
        if context.knows_background:
            return propagated_known(scores, features, config=config, device=context.device)
        return propagated(scores, features, config=config, device=context.device)


affinity_net = AffinityNetRefiner()


def make_backbone(
    config: AffinityNet,
    localizer: Callable[[], ClassMapNet] | None,
    *,
    load_weights: bool = True,
) -> Backbone:
    """Make the part of the network that does not start from scratch.

    Args:
        config: Settings of the network.
        localizer: Loads the run's localizer; needed for ``init=localizer``.
        load_weights: Load the weight file that the settings name. False builds the same network
            with random ones, to load a checkpoint into it.

    Returns:
        The backbone, frozen as the settings say; a copy where it is the localizer's.

    Raises:
        RecipeError: When there is no localizer to start from, or the backbone cannot do what is
            asked.
        MissingWeightsError: When weights cannot be had or do not fit.
    """
    from wsseg.nets.build import build_backbone

    if config.init == "localizer":
        backbone = _backbone_of(localizer)
    else:
        backbone = build_backbone(
            config.backbone or "",
            weights=config.init if load_weights else "none",
            output_stride=config.output_stride,
        )
    if config.freeze_batchnorm or (config.freeze_batchnorm is None and config.init != "none"):
        backbone.freeze_batchnorm()
    if config.stop_gradient_after_stage is not None:
        stages = sorted(backbone.stage_modules())
        if config.stop_gradient_after_stage not in stages:
            raise RecipeError(
                f"affinity_net.stop_gradient_after_stage is {config.stop_gradient_after_stage}, "
                f'but backbone "{backbone.name}" has the stages {stages}. Choose one of them, or '
                "null."
            )
        backbone.freeze_through(config.stop_gradient_after_stage)
    return backbone


def with_heads(backbone: Backbone, config: AffinityNet) -> Network:
    """Put new heads on a backbone.

    Args:
        backbone: What `make_backbone` returned.
        config: Stride and radius.

    Returns:
        The network in training mode.
    """
    from wsseg.nets.affinity_net import AffinityNet as Network

    net = Network(
        backbone,
        stride=config.stride_px,
        radius=config.radius,
        align_cells=config.align_cells,
    )
    return net.train()


def _backbone_of(localizer: Callable[[], ClassMapNet] | None) -> Backbone:
    from wsseg.nets.backbones import Backbone

    backbone = None if localizer is None else getattr(localizer(), "backbone", None)
    if not isinstance(backbone, Backbone):
        found = "there is none" if localizer is None else "it has no `backbone`"
        raise RecipeError(
            f"affinity_net with init=localizer starts from the run's localizer, but {found}. Set "
            "init=none (or a weight file) and backbone to the network to train."
        )
    return copy.deepcopy(backbone)


def _loaded(config: AffinityNet, context: RefineContext) -> Network:
    """Load the trained network once per stage."""
    from wsseg.training.checkpoint import load_weights

    if context.folder is None or "weights" not in context.state:
        raise RecipeError(
            "affinity_net must be trained before it refines: call affinity_net.fit and pass its "
            "result as context.state and its folder as context.folder."
        )
    path = context.folder / Path(context.state["weights"])
    key = ("affinity_net", str(path), context.device)
    if key not in context.shared:
        backbone = make_backbone(config, context.localizer, load_weights=False)
        network = with_heads(backbone, config)
        load_weights(path, network)
        context.shared[key] = network.to(context.device).eval()
    network_here: Network = context.shared[key]
    return network_here


def _features(
    network: Network, image: npt.NDArray[np.uint8], device: str
) -> npt.NDArray[np.float32]:
    """Compute (c, ceil(H / stride), ceil(W / stride)) features of an image."""
    import torch
    import torch.nn.functional as F

    pixels = normalise(image, 1 if network.backbone.in_channels == 1 else 3)
    images = torch.from_numpy(pixels)[None].to(device)
    extra = [-side % network.size_multiple for side in image.shape[:2]]
    with torch.inference_mode():
        features = network(F.pad(images, (0, extra[1], 0, extra[0])))[0]
    height, width = (-(-side // network.stride) for side in image.shape[:2])
    result: npt.NDArray[np.float32] = features[:, :height, :width].float().cpu().numpy()
    return result
