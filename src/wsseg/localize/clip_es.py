"""CLIP-ES: maps from CLIP and the tags alone, without any training.

Reference: Lin, Chen, Wang, Wu, Li, Lin, Liu and He, "CLIP is Also an Efficient Segmenter: A
Text-Driven Approach for Weakly Supervised Semantic Segmentation", CVPR 2023. With texts for the
tagged classes and for things that are often behind them, and A the input of the last attention,

    p   = softmax over [tagged classes, background] of the likeness of image and text
    M_c = ReLU( sum_k A_k mean_u dp_c / dA_k(u) ),       stretched to [0, 1]
    W   = mean of the patches' attention over the last 8 layers and over heads
    T   = (W' + W'^T) / 2,  W' = columns, then rows of W divided by their sums, three times
    s_c = T T (b_c * M_c),  stretched to [0, 1];  b_c: inside the boxes around M_c >= 0.4

The softmax makes classes of one image compete: a place that speaks for the background, or for
another class of the image, counts against a class. Row 0 of the scores stays empty: a background
rule follows, for instance (1 - strongest class) by `background_power`.

Differences: `wsseg.refine.attention_steps` does the spreading, whose boxes include their last row
and column. Several prompts of a class are averaged. The list of backgrounds, the mean of patch
tokens as the image's feature and bicubic resizing: from memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from wsseg import console
from wsseg.data.labels import WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError, unknown_name
from wsseg.localize.direct import DirectLocalizerConfig, LocalizeContext, all_background
from wsseg.outside import Outside
from wsseg.refine.attention_steps import boxes_around, sinkhorn, spread, stretched

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.data.dataset import Dataset
    from wsseg.nets.clip_network import ClipNetwork

# From memory; written for photographs.
BACKGROUNDS = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
    "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road",
    "rock", "street", "valley", "bridge", "sign",
)  # fmt: skip
Text = Annotated[str, Field(min_length=1, max_length=400)]


class ClipEs(DirectLocalizerConfig):
    """Settings of `clip_es`."""

    label_kinds: ClassVar[tuple[str, ...]] = ("tags",)
    writes_background: ClassVar[bool] = False

    name: Literal["clip_es"] = Field(
        "clip_es", description="Maps by CLIP from the names of the tags, without training."
    )
    model: Annotated[Text, Outside("network")] = Field(
        "openai/clip-vit-base-patch16",
        description="Local folder of a CLIP with a vision transformer, or its name on the Hugging "
        "Face hub.",
    )
    templates: tuple[Text, ...] = Field(
        ("a clean origami {}.",),
        min_length=1,
        description="Texts around the words for classes and backgrounds, which take the place of "
        "{}; several are averaged.",
    )
    prompts: dict[str, Annotated[tuple[Text, ...], Field(min_length=1)]] = Field(
        default={},
        description="Words for classes, as a list for each class name, such as {dent: [dent, "
        "hollow in metal]}; several are averaged. A class that is not named is called by its name.",
    )
    background: tuple[Text, ...] = Field(
        BACKGROUNDS,
        min_length=1,
        description="Words for what may be behind the classes; those that name a class are left "
        "out.",
    )
    pooling: Literal["patches", "class"] = Field(
        "patches",
        description="What stands for the image: patches, the mean of their tokens (CLIP-ES), or "
        "class, the class token that CLIP was trained with.",
    )
    num_layers: int = Field(
        8, ge=1, le=1000, description="Attention is averaged over this many last layers."
    )
    sinkhorn_iterations: int = Field(
        3,
        ge=0,
        le=100,
        description="How often columns and rows of the attention are divided by their sums.",
    )
    num_steps: int = Field(
        2,
        ge=0,
        le=64,
        description="How often maps are multiplied by the attention; 0: plain Grad-CAM.",
    )
    box_min_frac: float | None = Field(
        0.4,
        gt=0,
        le=1,
        description="Only scores inside the boxes around the parts of the map above this fraction "
        "of its maximum spread. null: all scores spread.",
    )
    max_side_px: int = Field(
        512,
        ge=32,
        le=8192,
        description="Images with a longer side, pixels, are shrunk to it before CLIP sees them. "
        "Memory grows with its fourth power.",
    )

    @model_validator(mode="after")
    def _check_templates(self) -> Self:
        wrong = [text for text in self.templates if text.count("{}") != 1]
        if wrong:
            raise ValueError(
                f'the template "{wrong[0]}" has {wrong[0].count("{}")} places {{}} for the word; '
                'write one, as in "a photo of a {}."'
            )
        return self

    def check(self, dataset: Dataset, *, allow_masks: bool) -> None:
        """Refuse words for classes that are not there, and load the network once.

        Args:
            dataset: The data set.
            allow_masks: Not used.

        Raises:
            DataError: When no image of the train split has tags.
            RecipeError: When `prompts` names something that is no class, every background names a
                class, a prompt is too long, or the network is no CLIP.
            MissingExtraError: When ``transformers`` is not installed.
            MissingWeightsError: When the network is neither there nor reachable.
        """
        super().check(dataset, allow_masks=allow_masks)
        from wsseg.nets.clip_network import ClipNetwork

        names = dataset.classes.names
        groups = prompt_groups(self, names)
        ClipNetwork(self.model).check_prompts([prompt for group in groups for prompt in group])


def clip_es(
    image: np.ndarray,
    labels: WeakLabels,
    *,
    config: ClipEs = ClipEs(),
    context: LocalizeContext | None = None,
) -> Scores:
    """Find the tagged classes of an image.

    Args:
        image: (H, W, 3) uint8 RGB of any size; not changed.
        labels: Its tags; other labels do not matter.
        config: Network, words and spreading.
        context: Names of the classes, device, and where the loaded network is kept; notes tags
            that nothing in the image speaks for.

    Returns:
        Scores (K, h, w) on the grid of patches, row 0 zero; all background for an image without
        tags.

    Raises:
        DataError: When the image has no tags, or a tag has no name.
        MissingExtraError: When ``transformers`` is not installed.
        MissingWeightsError: When the network is neither there nor reachable.
        RecipeError: When it is no CLIP, or prompts do not fit.
    """
    context = context or LocalizeContext()
    size = (image.shape[0], image.shape[1])
    ids = _checked_tags(image, labels, context.class_names)
    if not ids:
        return all_background(size)
    network, texts = _loaded(config, context)
    num_classes = len(context.class_names)
    chosen = [class_id - 1 for class_id in ids] + list(range(num_classes, len(texts)))
    planes = network.planes(_resized(image, network.patch_px, config.max_side_px))
    grid = (planes.shape[2] // network.patch_px, planes.shape[3] // network.patch_px)
    flat, attention = network.explain(
        planes, texts[chosen], len(ids), num_layers=config.num_layers, pooling=config.pooling
    )
    peaks = np.ones((len(ids), 1, 1), np.float32)
    maps = stretched(flat.cpu().numpy().reshape(len(ids), *grid), peaks, "minmax")
    for class_id, one in zip(ids, maps, strict=True):
        if not one.any():
            context.note(f"CLIP finds nothing of {context.class_names[class_id - 1]}")
    if config.num_steps > 0:
        maps = stretched(spread_by_attention(maps, attention, config), peaks, "minmax")
    values = np.concatenate([np.zeros((1, *grid), np.float32), np.clip(maps, 0, 1)])
    return Scores(values, np.array([0, *ids], np.uint8), size)


def spread_by_attention(maps: np.ndarray, attention: Tensor, config: ClipEs) -> np.ndarray:
    """Spread each class map, inside its boxes, to the patches that attend to one another.

    Args:
        maps: (F, h, w) float in [0, 1].
        attention: (n, n) float64, n = h w, not negative.
        config: Sinkhorn iterations, boxes and steps.

    Returns:
        (F, h, w) float32.
    """
    balanced = sinkhorn(attention.cpu(), config.sinkhorn_iterations)
    affinity = (balanced + balanced.T) / 2
    if config.box_min_frac is not None:
        maps = np.stack([one * boxes_around(one, config.box_min_frac) for one in maps])
    return spread(affinity, maps, config.num_steps)


def prompt_groups(config: ClipEs, class_names: tuple[str, ...]) -> list[list[str]]:
    """Write the prompts of all classes, and then of all backgrounds.

    Args:
        config: Words and templates.
        class_names: Names of the classes 1..C.

    Returns:
        One list per class and background.

    Raises:
        RecipeError: When words are given for something that is no class, or every background
            names a class.

    Example:
        >>> words = ClipEs(templates=("a {}.",), prompts={"cat": ["cat", "kitten"]}, background=[
        ...     "sky", "Dog"])
        >>> prompt_groups(words, ("cat", "dog"))
        [['a cat.', 'a kitten.'], ['a dog.'], ['a sky.']]
    """
    for name in config.prompts:
        if name not in class_names:
            raise RecipeError(
                "localize.prompts: " + unknown_name("class of the data set", name, class_names)
            )
    classes = [config.prompts.get(name, (name.replace("_", " "),)) for name in class_names]
    taken = {word.lower() for words in classes for word in words}
    taken |= {name.replace("_", " ").lower() for name in class_names}
    behind = [word for word in config.background if word.lower() not in taken]
    if not behind:
        raise RecipeError(
            "localize.background names classes of the data set only "
            f"({', '.join(config.background)}); the softmax needs something else to compare with. "
            "Add words for what is behind the classes."
        )
    if len(behind) < len(config.background):
        left_out = sorted(set(config.background) - set(behind))
        console.once(f"clip_es: no background, because it names a class: {', '.join(left_out)}")
    groups = [*classes, *((word,) for word in behind)]
    return [[text.replace("{}", word) for text in config.templates for word in g] for g in groups]


def _checked_tags(image: np.ndarray, labels: WeakLabels, class_names: tuple[str, ...]) -> list[int]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"Expected an image of shape (H, W, 3) and dtype uint8, but got {image.shape} and "
            f"{image.dtype}."
        )
    if labels.tags is None:
        raise DataError("clip_es needs the tags of an image, but it has none. Tag it.")
    ids = sorted(labels.tags)
    if ids and ids[-1] > len(class_names):
        raise DataError(
            f"Class {ids[-1]} has no name, which clip_es asks CLIP for; there are "
            f"{len(class_names)} names. Pass LocalizeContext(class_names=...)."
        )
    return ids


def _loaded(config: ClipEs, context: LocalizeContext) -> tuple[ClipNetwork, Tensor]:
    """Give the network and the embeddings of classes and backgrounds; loaded once per stage."""
    # Settings with a dictionary have no hash.
    key = ("clip_es", config.model_dump_json(), context.class_names, context.device)
    if key not in context.shared:
        from wsseg.nets.clip_network import ClipNetwork

        network = ClipNetwork(config.model, context.device)
        context.shared[key] = network, network.texts(prompt_groups(config, context.class_names))
    made: tuple[ClipNetwork, Tensor] = context.shared[key]
    return made


def _resized(image: np.ndarray, patch_px: int, max_side_px: int) -> np.ndarray:
    """Resize to whole patches, at least as many pixels as the (shrunk) image has."""
    import cv2

    shrink = min(1.0, max_side_px / max(image.shape[:2]))
    # Rounded first: 3 / 7 * 7 may come out a little above 3.
    height, width = (
        patch_px * max(1, -int(-round(side * shrink, 6) // patch_px)) for side in image.shape[:2]
    )
    if (height, width) == image.shape[:2]:
        return image
    is_smaller = height < image.shape[0] and width < image.shape[1]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
