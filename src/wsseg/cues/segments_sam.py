"""Segments by a promptable segmentation network: SAM and its successors, through ``transformers``.

Any network that its auto class for mask generation loads (SAM, SAM-HQ, SAM 2, EdgeTAM, the tracker
of SAM 3), from the hub or from a local folder with ``config.json``, weights as safetensors, and
``processor_config.json`` or ``preprocessor_config.json``. Nothing is loaded by pickle and no code
of a repository is run.

The image goes through the encoder once, when it is first asked about; the embedding is kept on
disk where the context has a folder. Everything after it costs little per prompt.

Reference: Kirillov et al., "Segment Anything", ICCV 2023; its automatic mask generation without
crops: prompts on a grid of points, masks of low predicted overlap or low stability left out, and of
those whose boxes overlap only the best kept. Stability is

    |logits > offset| / |logits > -offset|

Differences: masks of any size are kept packed; the score of a segment is the predicted overlap; a
prompt with a box gets one mask, as the authors advise, unless ``multimask_boxes`` asks for three.

Such networks were trained on masks of a billion objects: state the outside knowledge (I+SAM) in
the recipe. The weights of SAM, SAM 2, SAM-HQ and EdgeTAM are under Apache-2.0 (the first from
memory), those of SAM 3 are not: read their licence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wsseg.config import MethodConfig
from wsseg.cues.protocol import check_rgb
from wsseg.cues.sam_prompts import distinct, grid_points, padded_points, within
from wsseg.cues.segments import OpenedImage, Prompt, Segments, SegmentsContext, check_points
from wsseg.data.dataset import Dataset
from wsseg.outside import NetworkPath

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.cues.sam_network import Embedded, SamNetwork

__all__ = ["Sam", "SamBackend", "sam"]

# Masks of one image are enlarged in parts of about so many values, to bound the memory.
_MAX_VALUES = 1 << 25


class Sam(MethodConfig):
    """Settings of the segments backend `sam`."""

    name: Literal["sam"] = Field(
        "sam", description="Which backend: SAM or a successor, through `transformers`."
    )
    model: NetworkPath = Field(
        min_length=1,
        description="Local folder of the network, or its name on the Hugging Face hub.",
    )
    points_per_side: int = Field(
        32, ge=1, le=256, description="`everything`: prompts per side of the grid of points."
    )
    points_per_batch: int = Field(
        64, ge=1, le=4096, description="Prompts that are answered at once; memory grows with it."
    )
    min_iou: float = Field(
        0.88, ge=0, le=1, description="`everything`: least predicted overlap with the object."
    )
    min_stability: float = Field(
        0.95, ge=0, le=1, description="`everything`: least stability of a mask."
    )
    stability_offset: float = Field(
        1.0, gt=0, le=10, description="By how much the threshold is moved to measure stability."
    )
    max_box_iou: float = Field(
        0.7,
        gt=0,
        le=1,
        description="`everything`: of segments whose boxes overlap by more than this, the one of "
        "the best predicted overlap is kept.",
    )
    multimask_boxes: bool = Field(
        False, description="Give three masks for a prompt with a box, as for points; false: one."
    )


class SamBackend:
    """Opens images with SAM; the network is loaded once and kept in the context."""

    config_class: type[MethodConfig] = Sam

    def check(self, dataset: Dataset, *, config: Sam) -> None:  # noqa: ARG002
        """Load the network once, so that what is missing is known at the start.

        Args:
            dataset: Not used.
            config: Which network.

        Raises:
            MissingExtraError: When ``transformers`` is not installed.
            MissingWeightsError: When the network is neither there nor reachable.
            RecipeError: When it is no network that takes points and boxes.
        """
        self._network(config, SegmentsContext())

    def identity(self, *, config: Sam, context: SegmentsContext) -> str:
        """Name the network by its weights, for results that are kept on disk."""
        return self._network(config, context).digest

    def __call__(
        self, image: np.ndarray, *, config: Sam, context: SegmentsContext | None = None
    ) -> OpenedImage:
        """Open an image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            config: Which network, and which masks count as segments.
            context: Device; where the loaded network and embeddings are kept.

        Returns:
            What answers `everything` and `at`.

        Raises:
            DataError: When the image is no (H, W, 3) uint8 array.
            MissingExtraError: When ``transformers`` is not installed.
            MissingWeightsError: When the network is neither there nor reachable.
            RecipeError: When it is no network that takes points and boxes.
        """
        check_rgb(image)
        context = context or SegmentsContext()
        network = self._network(config, context)
        return SamSegments(network, image, config, context.folder)

    def _network(self, config: Sam, context: SegmentsContext) -> SamNetwork:
        from wsseg.cues.sam_network import SamNetwork

        key = ("sam", config.model, context.device)
        if key not in context.shared:
            context.shared[key] = SamNetwork(config.model, context.device)
        network: SamNetwork = context.shared[key]
        return network


sam = SamBackend()


class SamSegments:
    """Answers of SAM about one image.

    Args:
        network: The loaded network.
        image: (H, W, 3) uint8 RGB.
        config: Which masks count as segments.
        folder: Where the embedding is kept; None: nowhere.
    """

    def __init__(
        self, network: SamNetwork, image: np.ndarray, config: Sam, folder: Path | None
    ) -> None:
        self._network = network
        self._image = image
        self._config = config
        self._folder = folder
        self._found: Embedded | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self._image.shape[:2]
        return height, width

    def everything(self) -> Segments:
        """List the segments of the whole image, the best first; see `OpenedImage`."""
        packed: list[npt.NDArray[np.uint8]] = []
        scores: list[float] = []
        boxes: list[tuple[int, int, int, int]] = []
        grid = grid_points(self._config.points_per_side, self.size)
        for first in range(0, len(grid), self._config.points_per_batch):
            for mask, score in self._good_masks(
                grid[first : first + self._config.points_per_batch]
            ):
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                # As in the published procedure, a box ends at the last pixel, not behind it.
                boxes.append((columns[0], rows[0], columns[-1], rows[-1]))
                packed.append(np.packbits(mask.reshape(-1)))
                scores.append(score)
        kept = distinct(boxes, scores, self._config.max_box_iou)
        num_bytes = (self.size[0] * self.size[1] + 7) // 8
        chosen = np.array([packed[index] for index in kept], np.uint8).reshape(-1, num_bytes)
        found = np.clip(np.array([scores[index] for index in kept], np.float32), 0, 1)
        return Segments(chosen, found, self.size)

    def at(self, prompts: Sequence[Prompt]) -> list[Segments]:
        """Say what is at points or in boxes; see `OpenedImage`.

        Masks are in the network's own order, which for points goes from the part to the whole.
        """
        for prompt in prompts:
            check_points(prompt, self.size)
        answers: dict[int, Segments] = {}
        groups: dict[tuple[bool, bool], list[tuple[int, Prompt]]] = {}
        for index, asked in enumerate(prompts):
            inside = within(asked, self.size)
            if inside is None:
                answers[index] = Segments.of_masks(np.zeros((0, *self.size), bool), np.zeros(0))
                continue
            kind = (len(inside.points) > 0, inside.box is not None)
            groups.setdefault(kind, []).append((index, inside))
        for (_, has_box), members in groups.items():
            multimask = self._config.multimask_boxes or not has_box
            for first in range(0, len(members), self._config.points_per_batch):
                part = members[first : first + self._config.points_per_batch]
                found = self._answers([prompt for _, prompt in part], multimask)
                answers |= dict(zip((index for index, _ in part), found, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _embedded(self) -> Embedded:
        if self._found is None:
            self._found = self._network.embedded(self._image, self._folder)
        return self._found

    def _good_masks(self, points: npt.NDArray[np.float64]) -> list[tuple[np.ndarray, float]]:
        """Ask about single points, and keep the masks that are good enough for `everything`."""
        config, embedded = self._config, self._embedded()
        low, overlaps = self._network.decode(
            embedded, points[:, None], np.ones((len(points), 1), np.int64)
        )
        low, overlaps = low.flatten(0, 1), overlaps.flatten()
        low, overlaps = low[overlaps > config.min_iou], overlaps[overlaps > config.min_iou]
        good: list[tuple[np.ndarray, float]] = []
        for first, logits in self._enlarged(low):
            inner = (logits > config.stability_offset).sum(dim=(1, 2)).double()
            outer = (logits > -config.stability_offset).sum(dim=(1, 2)).double()
            is_stable = (outer > 0) & (inner >= config.min_stability * outer)
            masks = logits > 0
            chosen = (is_stable & masks.any(dim=2).any(dim=1)).nonzero().flatten().tolist()
            good += [(masks[i].cpu().numpy(), float(overlaps[first + i])) for i in chosen]
        return good

    def _answers(self, prompts: Sequence[Prompt], multimask: bool) -> list[Segments]:
        """Answer prompts that all have points or not, and all have a box or not."""
        points, labels = padded_points(prompts)
        boxes = None if prompts[0].box is None else np.stack([p.box for p in prompts])
        low, overlaps = self._network.decode(
            self._embedded(), points, labels, boxes, multimask=multimask
        )
        num_masks = low.shape[1]
        masks, soft = [], []
        for _, logits in self._enlarged(low.flatten(0, 1)):
            masks.append((logits > 0).cpu().numpy())
            soft.append(_reduced(logits, max(low.shape[2:])))
        all_masks, all_soft = np.concatenate(masks), np.concatenate(soft)
        scores = np.clip(overlaps.cpu().numpy(), 0, 1)
        answers = []
        for number, row in enumerate(scores):
            mine = slice(number * num_masks, (number + 1) * num_masks)
            shown = all_masks[mine].any(axis=(1, 2))
            answers.append(
                Segments.of_masks(all_masks[mine][shown], row[shown], all_soft[mine][shown])
            )
        return answers

    def _enlarged(self, low: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Bring (M, h, w) logits to the size of the image: (index of the first, part), in parts."""
        embedded = self._embedded()
        step = max(1, _MAX_VALUES // max(math.prod(self.size), math.prod(embedded.input_size)))
        for first in range(0, len(low), step):
            yield first, embedded.enlarged(low[first : first + step])


def _reduced(logits: Tensor, side: int) -> npt.NDArray[np.float32]:
    """Bring (M, H, W) logits to at most a side, which is what the network can tell apart."""
    import torch.nn.functional as F

    height, width = logits.shape[1:]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size != (height, width):
        logits = F.interpolate(logits[None], size, mode="bilinear", antialias=True)[0]
    reduced: npt.NDArray[np.float32] = logits.float().cpu().numpy()
    return reduced
