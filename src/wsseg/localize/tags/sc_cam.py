"""SC-CAM: telling sub-categories apart makes a classifier look at more of the object.

Reference: Chang, Wang, Hung, Piramuthu, Tsai and Yang, "Weakly-Supervised Semantic Segmentation via
Sub-category Exploration", CVPR 2020, and its code for the numbers. Round 0 trains an ordinary
classifier. Then, ``rounds`` times:

1. v = the mean over all cells of the features of the last round's network, one vector per image;
2. for every class c, k-means of v over all images that carry c, into K clusters; an image with
   three classes takes part in three clusterings;
3. sub-tags s in {0, 1}^(C K): s[c K + cluster of the image in c] = 1 for every present class c;
4. a new network from the first weights, with two heads on its features, learns

    L = L_cls(parent logits, y) + lambda L_cls(sub-category logits, s).

The maps are those of the parent head of the last round.

Differences: a class with fewer images than K gets as many clusters as it has images, and the
sub-categories that do not exist count in no loss. Every round trains equally long, where the
authors take the weights of epochs 30, 40 and 50. Any backbone and pooling; padding does not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsseg import console
from wsseg.atomic import atomic_path, write_json
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.working import read_working_image
from wsseg.device import best_device
from wsseg.errors import DataError
from wsseg.localize.clusters import kmeans
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.rounds import Round, RoundData, RoundInputs, RoundsLocalizer, folder_of

if TYPE_CHECKING:
    from wsseg.localize.tags.cam import Cam
    from wsseg.nets.cam_head import ClassMapNet
    from wsseg.nets.sc_cam_head import ScCamNet

CLUSTERS_FILE = "clusters.json"
_FEATURES = "features"
_CLUSTER_STREAM = 22
# These blend images, and nobody knows the sub-tags of a blend.
_BLENDING = ("cutmix", "mixup_cam")


class ScCam(TagLocalizerConfig):
    """A classifier that also learns sub-categories, found by clustering, in several rounds."""

    name: Literal["sc_cam"] = Field(
        "sc_cam", description="Parent classes and sub-categories, trained in rounds."
    )
    rounds: int = Field(
        3,
        ge=1,
        le=20,
        description="Rounds of clustering and training, after the training of an ordinary "
        "classifier: all in all the training time of rounds + 1 classifiers.",
    )
    num_subclasses: int = Field(
        10,
        ge=2,
        le=1000,
        description="Sub-categories of each class; a class with fewer images gets one per image.",
    )
    sub_weight: float = Field(
        5.0, gt=0, le=100, description="Weight of the loss on sub-categories (lambda)."
    )

    @model_validator(mode="after")
    def _check_regularisers(self) -> Self:
        names = [str(one.model_dump()["name"]) for one in self.regularisers]
        blending = [name for name in names if name in _BLENDING]
        if blending:
            raise ValueError(
                f"regularisers is {', '.join(names)}, but {', '.join(blending)} blends images, "
                "whose sub-categories nobody knows. Remove it, or use localizer cam."
            )
        return self


class ScCamLocalizer(RoundsLocalizer):
    """The rounds of SC-CAM."""

    config_class = ScCam
    passing = (_FEATURES,)

    def __call__(
        self, *, config: ScCam = ScCam(), num_classes: int, load_weights: bool = True
    ) -> ScCamNet:
        """Make the network of the rounds after the first, in training mode.

        Args:
            config: Its settings.
            num_classes: C, foreground classes.
            load_weights: Load the weights that the settings name; False: for a checkpoint.

        Returns:
            The network.

        Raises:
            RecipeError: When the backbone does not exist or cannot do what is asked.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        from wsseg.localize.tags.backbone import localizer_backbone
        from wsseg.nets.sc_cam_head import ScCamNet

        return ScCamNet(
            localizer_backbone(config, load_weights=load_weights),
            num_classes,
            config.pooling,
            num_subclasses=config.num_subclasses,
            weight=config.sub_weight,
            dropout=config.dropout,
            bias=config.head_bias,
            focal_gamma=config.focal_gamma,
        )

    def numbers(self, config: ScCam) -> Sequence[int]:
        """List the rounds; 0 is the ordinary classifier."""
        return range(config.rounds + 1)

    def check(self, dataset: Dataset, *, config: ScCam) -> None:
        """Refuse data without two images of any class, and name classes with few.

        Raises:
            DataError: When there is nothing to cluster.
        """
        counts = dict.fromkeys(range(1, dataset.classes.num_classes + 1), 0)
        for sample in dataset.split("train"):
            for class_id in sample.labels.tags or ():
                counts[class_id] += 1
        if max(counts.values(), default=0) < 2:
            raise DataError(
                "Localizer sc_cam clusters the images of each class, but no class has more than "
                "one tagged image in the train split. Add images, or set localize.name=cam."
            )
        few = [
            f"{dataset.classes.name_of(class_id)} ({count})"
            for class_id, count in counts.items()
            if 0 < count < config.num_subclasses
        ]
        if few:
            console.warning(
                f"sc_cam: fewer images than sub-categories ({config.num_subclasses}): "
                f"{', '.join(few)}. Each of these classes gets one per image, which the network "
                "learns by heart; a smaller localize.num_subclasses suits them better."
            )

    def network(self, this: Round) -> ClassMapNet:
        """Make an ordinary classifier for round 0, else one with both heads."""
        from wsseg.localize.regularise.attach import make_localizer

        config = this.inputs.config if this.number else plain(this.inputs.config)
        return make_localizer(config, this.inputs.dataset.classes.num_classes)

    def data(self, this: Round) -> RoundData:
        """Make items with tags, and after round 0 with sub-tags."""
        inputs = this.inputs
        if this.number == 0:
            return RoundData(inputs)
        path = folder_of(inputs, this.number - 1) / CLUSTERS_FILE
        clusters = json.loads(path.read_bytes())["clusters"]
        return SubCategoryData(inputs, clusters)

    def after(self, this: Round, net: ClassMapNet) -> dict[str, Any]:
        """Cluster the images of each class by the features of the network.

        Args:
            this: The round.
            net: Its network.

        Returns:
            How many images each cluster of each class has; nothing after the last round.
        """
        if this.is_last:
            return {}
        stage = this.stage(_FEATURES)
        samples = [sample for sample in this.inputs.samples if sample.labels.tags]
        if not stage.begin():
            net = net.to(best_device()).eval()
            stage.for_each(
                samples,
                lambda sample: _write_features(this, net, sample),
                title=f"localize: features, round {this.number}",
            )
            stage.finish()
        usable = stage.usable(samples)
        features = {one.id: _read(stage.file("vectors", one.id, ".npz")) for one in usable}
        config: ScCam = this.inputs.config
        clusters = sub_categories(features, usable, config.num_subclasses, this.seed)
        write_json(this.folder / CLUSTERS_FILE, {"clusters": clusters})
        return {"sizes": cluster_sizes(clusters)}


sc_cam = ScCamLocalizer()


class SubCategoryData(RoundData):
    """Tagged images with the sub-category of each present class.

    Args:
        inputs: What all rounds share; its config is a `ScCam`.
        clusters: ``{image id: {class id as text: cluster from 0}}``; an image that is not in it
            trains the parent classes only.
    """

    def __init__(self, inputs: RoundInputs, clusters: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(inputs)
        self.sub_tags = sub_tags(
            [sample.id for sample in self.samples],
            clusters,
            self.tags.shape[1],
            inputs.config.num_subclasses,
        )
        unknown = [i for i, one in enumerate(self.samples) if one.id not in clusters]
        self.sub_tags[[i for i in unknown if self.tags[i].any()]] = -1

    def item(self, index: int, rng: np.random.Generator) -> dict[str, NDArray]:
        """Read and augment one image; see `TagData.item`.

        Returns:
            The same, and ``sub_tags`` (C K,) float32: 1, 0, or -1 where it does not count.
        """
        return {**super().item(index, rng), "sub_tags": self.sub_tags[index]}


def plain(config: ScCam) -> Cam:
    """Take the settings that an ordinary classifier has, too."""
    from wsseg.localize.tags.cam import Cam

    shared = {name: getattr(config, name) for name in Cam.model_fields if name != "name"}
    return Cam.model_validate(shared)


def sub_categories(
    features: Mapping[str, NDArray[np.float32]],
    samples: Sequence[Sample],
    num_subclasses: int,
    seed: int,
) -> dict[str, dict[str, int]]:
    """Cluster the images of every class.

    Args:
        features: (D,) per image id.
        samples: Tagged images, all of them in ``features``.
        num_subclasses: K, clusters per class; min(K, images of the class) are made.
        seed: Of the clustering.

    Returns:
        ``{image id: {class id as text: cluster from 0}}``.
    """
    from wsseg.training.seeds import generator

    found: dict[str, dict[str, int]] = {sample.id: {} for sample in samples}
    class_ids = sorted({tag for sample in samples for tag in sample.labels.tags or ()})
    for class_id in class_ids:
        ids = [sample.id for sample in samples if class_id in (sample.labels.tags or ())]
        points = np.stack([features[image_id] for image_id in ids])
        rng = generator(seed, class_id, stream=_CLUSTER_STREAM)
        for image_id, label in zip(ids, kmeans(points, num_subclasses, rng), strict=True):
            found[image_id][str(class_id)] = int(label)
    return found


def cluster_sizes(clusters: Mapping[str, Mapping[str, int]]) -> dict[str, list[int]]:
    """Count the images of each cluster.

    Args:
        clusters: As `sub_categories` returns them.

    Returns:
        ``{class id as text: images per cluster}``.

    Example:
        >>> cluster_sizes({"a": {"1": 0}, "b": {"1": 1, "2": 0}, "c": {"1": 1}})
        {'1': [1, 2], '2': [1]}
    """
    members: dict[str, list[int]] = {}
    for of_image in clusters.values():
        for class_id, cluster in of_image.items():
            members.setdefault(class_id, []).append(cluster)
    return {key: np.bincount(members[key]).tolist() for key in sorted(members, key=int)}


def sub_tags(
    image_ids: Sequence[str],
    clusters: Mapping[str, Mapping[str, int]],
    num_classes: int,
    num_subclasses: int,
) -> NDArray[np.float32]:
    """Write clusters as sub-tags.

    Args:
        image_ids: Ids of the images, in the order of the rows.
        clusters: As `sub_categories` returns them.
        num_classes: C.
        num_subclasses: K.

    Returns:
        (n, C K) float32: 1 at ``(class id - 1) K + cluster`` for every class of the image, -1 at
        sub-categories that no image has, else 0. An image without clusters has no 1.

    Example:
        >>> clusters = {"a": {"1": 0}, "b": {"1": 1, "2": 0}}
        >>> sub_tags(["a", "b"], clusters, num_classes=2, num_subclasses=2).tolist()
        [[1.0, 0.0, 0.0, -1.0], [0.0, 1.0, 1.0, -1.0]]
    """
    exists = np.zeros(num_classes * num_subclasses, np.bool_)
    rows = np.zeros((len(image_ids), num_classes * num_subclasses), np.float32)
    for of_image in clusters.values():
        for class_id, cluster in of_image.items():
            exists[(int(class_id) - 1) * num_subclasses + cluster] = True
    for row, image_id in zip(rows, image_ids, strict=True):
        for class_id, cluster in clusters.get(image_id, {}).items():
            row[(int(class_id) - 1) * num_subclasses + cluster] = 1
    rows[:, ~exists] = -1
    return rows


def _write_features(this: Round, net: ClassMapNet, sample: Sample) -> None:
    from wsseg.localize.inference import mean_features

    image = read_working_image(sample.image_path, this.inputs.context.max_side_px)
    path = this.stage(_FEATURES).file("vectors", sample.id, ".npz")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, vector=mean_features(net, image))


def _read(path: Any) -> NDArray[np.float32]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        vector: NDArray[np.float32] = archive["vector"]
    return vector
