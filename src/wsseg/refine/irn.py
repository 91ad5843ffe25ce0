"""IRN: spread class maps to whole objects by a random walk that stops at learned boundaries.

Reference: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019. From the confident areas of the train images' own maps a network learns
where classes meet and where the centroid of each object lies (`wsseg.nets.irn_losses`). Then, on
a grid of 4 pixels, with the affinity a_ij = 1 - max of the boundary on the path from i to j,

    T = A^beta, columns divided by their sums        s' = (s (1 - edge)) T^256

and everything is divided by the largest value over all classes. The background is a constant. The
displacements are only needed to tell instances apart (`wsseg.refine.irn_instances`). Behind
localizers that know the background, the walk fills what they left open instead
(`wsseg.refine.known_labels`).

Differences: the features start from the run's own classifier unless ``init`` says otherwise (the
paper's code takes those of ImageNet again); images are padded to multiples of 32 pixels instead of
to 512; the mean displacement is that of whole images; maps of another size are averaged over, or
stretched to, the cells of the boundary, and stretched back; features are drawn where their cells
look unless ``align_cells`` is false; the largest value is that on the grid,
before the maps are enlarged to the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsseg.config import MethodConfig
from wsseg.data.dataset import Dataset
from wsseg.data.scores import Scores
from wsseg.errors import RecipeError
from wsseg.refine.background import with_constant_background
from wsseg.refine.irn_config import STRIDE, Irn
from wsseg.refine.known_labels import ROUNDS, can_fill, filled, with_known
from wsseg.refine.protocol import FitInputs, RefineContext, check_image
from wsseg.training.config import RESULT_NEUTRAL_FIELDS

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet
    from wsseg.nets.irn_net import IrnNet
    from wsseg.refine.irn_instances import Instance

__all__ = ["Irn", "IrnRefiner", "irn"]

Floats = npt.NDArray[np.float32]
# Settings that the trained network does not depend on.
_OF_THE_WALK = {
    "walk_radius", "beta", "steps", "method", "background", "instances", "instance",
}  # fmt: skip


class IrnRefiner:
    """Learns boundaries from the maps of the train images, then walks inside them."""

    config_class: type[MethodConfig] = Irn

    def check(
        self,
        dataset: Dataset,  # noqa: ARG002 - every check has the same signature
        *,
        config: Irn,
        allow_masks: bool,  # noqa: ARG002
    ) -> None:
        """Make the network once, so that missing weights are known at the start.

        Args:
            dataset: Not used.
            config: Which weights.
            allow_masks: Not used; irn never looks at masks.

        Raises:
            RecipeError: When the backbone does not exist or cannot do what is asked.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        if config.init != "localizer":
            from wsseg.refine.irn_training import new_net

            new_net(config, None)

    def check_localizer(self, network: ClassMapNet, *, config: Irn) -> None:
        """Refuse a localizer whose stages cannot be read, before the run starts.

        Args:
            network: The run's localizer, trained or not.
            config: The settings.

        Raises:
            RecipeError: When its backbone has no stages.
        """
        if config.init == "localizer":
            from wsseg.refine.irn_training import new_net

            new_net(config, lambda: network)

    def training_settings(self, config: Irn) -> dict[str, Any]:
        """List what the network depends on; walk, background and instances are left out.

        Args:
            config: The settings.

        Returns:
            JSON-able.
        """
        neutral = dict.fromkeys(_OF_THE_WALK, True) | {"training": set(RESULT_NEUTRAL_FIELDS)}
        return config.model_dump(mode="json", exclude=neutral)

    def fit(self, inputs: FitInputs, *, config: Irn) -> dict[str, Any]:
        """Learn boundaries and displacements from the train split's own maps.

        Args:
            inputs: The data set with its scores.
            config: Confident areas, network and training.

        Returns:
            JSON-able: ``weights`` (path in the stage's folder), ``displacement_mean``,
            ``confident`` shares of the pixels, ``tuned_on_masks`` and ``notes``.

        Raises:
            DataError: When the confident areas teach nothing.
            RecipeError: When a setting is wrong or there is no localizer to start from.
            MissingWeightsError: When the first weights cannot be had.
            OutputError: When files cannot be written.
        """
        from wsseg.refine import irn_training
        from wsseg.refine.irn_displacement import kept_mean_displacement

        labels = irn_training.write_labels(inputs, config)
        shares = irn_training.confident_facts(labels, config)
        learned = irn_training.train(inputs, config, labels)
        mean = kept_mean_displacement(learned, inputs)
        return {
            "tuned_on_masks": False,
            "weights": learned.weights,
            "displacement_mean": list(mean),
            "confident": {key: round(value, 5) for key, value in shares.items()},
            "notes": [
                f"learned from {len(learned.data)} images, {shares['foreground']:.1%} of their "
                f"pixels confident foreground, {shares['background']:.1%} background"
            ],
        }

    def __call__(
        self,
        image: np.ndarray,
        scores: Scores,
        *,
        config: Irn = Irn(),
        context: RefineContext | None = None,
    ) -> Scores:
        """Walk inside the boundaries of one image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            scores: Scores of the image; row 0 is not looked at. Not changed.
            config: Walk, background and instances.
            context: ``context.state`` is what `fit` returned, ``context.folder`` where its files
                are. With ``config.instances`` the instances are written there, too.

        Returns:
            Scores of the same classes, row 0 = ``config.background`` (1 for an image without
            classes): at the resolution of the input where that is 4 pixels per cell, else at full
            size. With ``context.knows_background`` known pixels keep their scores, all rows walk,
            and nothing changes where no background, or no class, is known.

        Raises:
            DataError: When the image does not belong to the scores.
            RecipeError: When the network was not trained.
            OutputError: When the instances cannot be written.
        """
        check_image(image, scores)
        context = context or RefineContext()
        if context.knows_background and not can_fill(scores) and not config.instances:
            return scores
        if len(scores.class_ids) == 1:
            if config.instances:
                _write_instances([], scores.size, context)
            return scores if context.knows_background else with_constant_background(scores, 1.0)
        edge, displacement = _relations(image, config, context)
        maps = _on_grid(scores.values[1:], edge.shape)
        if config.instances:
            self._find_instances(scores, maps, (edge, displacement), config, context)
        if context.knows_background:
            return _filled(scores, edge, config, context) if can_fill(scores) else scores
        walked = _divided_by_largest(_walk(maps, edge, config, context))
        values = np.concatenate([np.zeros_like(walked[:1]), walked])
        refined = replace(scores, values=values)
        if values.shape != scores.values.shape:
            refined = replace(refined, values=refined.resized())
        return with_constant_background(refined, config.background)

    def _find_instances(
        self,
        scores: Scores,
        maps: Floats,
        relations: tuple[Floats, Floats],
        config: Irn,
        context: RefineContext,
    ) -> None:
        from wsseg.refine.irn_instances import cluster_map, detect, separate, track_centroids

        edge, displacement = relations
        settings = config.instance
        centroids = track_centroids(displacement, settings.iterations)
        clusters = cluster_map(centroids, displacement, settings.max_displacement_cells)
        class_ids = scores.class_ids[1:].astype(np.int64)
        if settings.cut == "after_walk":
            parts = separate(_walk(maps, edge, config, context), clusters)
        else:
            cut = separate(maps, clusters)
            parts = ((_walk(part, edge, config, context), rows) for part, rows in cut)
        walked = ((part, class_ids[rows]) for part, rows in parts)
        found = detect(
            walked,
            scores.size,
            background=config.background,
            min_fragment_frac=settings.min_fragment_frac,
        )
        _write_instances(found, scores.size, context)


irn = IrnRefiner()


def _filled(scores: Scores, edge: Floats, config: Irn, context: RefineContext) -> Scores:
    """Fill what is unknown by walks inside the boundaries; known pixels keep their scores."""
    part = config.model_copy(update={"steps": -(-config.steps // ROUNDS)})
    cells = filled(
        _on_grid(scores.values, edge.shape), lambda maps: _walk(maps, edge, part, context)
    )
    return with_known(replace(scores, values=cells), scores)


def _walk(maps: Floats, edge: Floats, config: Irn, context: RefineContext) -> Floats:
    """Propagate (K, h, w) maps inside the boundaries; they are not normalised."""
    from wsseg.kernels.random_walk import irn_propagate

    walked = irn_propagate(
        maps,
        edge,
        radius=config.walk_radius,
        beta=config.beta,
        steps=config.steps,
        method=config.method,
        device=context.device,
    )
    # A truncated polynomial can fall below zero by its tolerance.
    return np.maximum(walked, 0)


def _divided_by_largest(maps: Floats) -> Floats:
    """Divide (K, h, w) maps by the largest value over all classes; maps of zeros stay zero."""
    largest = maps.max()
    return maps if largest <= 0 else np.minimum(maps / largest, 1).astype(np.float32, copy=False)


def _on_grid(maps: Floats, shape: tuple[int, ...]) -> Floats:
    """Bring (K, h', w') maps to the grid (h, w); finer maps are averaged."""
    import cv2

    if maps.shape[1:] == shape:
        return maps
    is_finer = maps.shape[1] >= shape[0] and maps.shape[2] >= shape[1]
    method = cv2.INTER_AREA if is_finer else cv2.INTER_LINEAR
    size = (shape[1], shape[0])
    return np.stack([cv2.resize(row, size, interpolation=method) for row in maps]).astype(
        np.float32, copy=False
    )


def _relations(image: np.ndarray, config: Irn, context: RefineContext) -> tuple[Floats, Floats]:
    """Compute (h, w) boundary probabilities and (2, h, w) displacements in cells of 4 pixels."""
    import torch
    import torch.nn.functional as F

    from wsseg.data.colour import normalise

    net = _network(config, context)
    planes = normalise(image, 1 if net.backbone.in_channels == 1 else 3)
    images = torch.from_numpy(planes).to(context.device)
    # Whole cells, so that those of the mirrored image are the same ones.
    images = F.pad(images, (0, -images.shape[-1] % STRIDE))
    with torch.inference_mode():
        edges, displacements = net(torch.stack([images, images.flip(-1)]))
        # As in the paper's code, logits are averaged and displacements are not.
        edge = ((edges[0, 0] + edges[1, 0].flip(-1)) / 2).sigmoid()
    return edge.float().cpu().numpy(), displacements[0].float().cpu().numpy()


def _network(config: Irn, context: RefineContext) -> IrnNet:
    """Load the trained network once per stage."""
    from wsseg.refine.irn_training import new_net
    from wsseg.training.checkpoint import load_weights

    key = ("irn", context.folder, context.device)
    if key not in context.shared:
        state = context.state
        if context.folder is None or "weights" not in state:
            raise RecipeError(
                "irn must learn from the data set first: call irn.fit, and pass its result as "
                "context.state and its folder as context.folder."
            )
        net = new_net(config, context.localizer, load_weights=False)
        load_weights(context.folder / state["weights"], net)
        rows, columns = state["displacement_mean"]
        net.set_displacement_mean((rows, columns))
        context.shared[key] = net.to(context.device).eval()
    loaded: IrnNet = context.shared[key]
    return loaded


def _write_instances(found: list[Instance], size: tuple[int, int], context: RefineContext) -> None:
    """Write ``instances/ID.json``; outside of a run there is nowhere to write to."""
    if context.folder is None:
        return
    from wsseg.atomic import write_json
    from wsseg.refine.irn_instances import INSTANCES_FOLDER, instances_document

    path = context.folder / INSTANCES_FOLDER / f"{context.sample_id}.json"
    write_json(path, instances_document(found, size))
