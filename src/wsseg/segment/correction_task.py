"""Training with ADELE: the corrected masks are files, and the loss has a consistency term.

Below the folder of the training lies ``labels/``:

```
ID.png       the current mask of each image, replaced as a whole when it is corrected
state.json   IoU per class after each epoch, the classes being corrected, the last epoch corrected
```

A killed training goes on to the same result: corrections are made when an epoch begins, from the
weights of the checkpoint, and making one twice changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsseg import console
from wsseg.atomic import write_json
from wsseg.data.dataset import Sample
from wsseg.data.image_io import image_size, read_mask, write_mask
from wsseg.data.labels import IGNORE
from wsseg.data.working import read_working_image
from wsseg.errors import OutputError
from wsseg.processes import from_main_process
from wsseg.rundir import StageDir
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.correction import classes_to_correct, corrected, epoch_ious
from wsseg.segment.correction_config import Adele
from wsseg.segment.data import SegmentationData, read_pair
from wsseg.segment.draft import ImageFacts
from wsseg.segment.forward import TorchForward
from wsseg.segment.inference import predict_probabilities, resize_maps
from wsseg.segment.losses.consistency import resized_images, scale_consistency
from wsseg.segment.rounds_cleanup import crf_marginals
from wsseg.segment.said import Said
from wsseg.segment.views import all_boxes, box_rows
from wsseg.training.config import TrainingConfig
from wsseg.training.optim import parameter_groups

STATE_FILE = "state.json"
LABELS_FOLDER = "labels"


class CorrectedData(SegmentationData):
    """Items whose masks are those of a folder that changes from epoch to epoch.

    Drawing weights follow the first masks, so that they do not depend on when they are asked for.
    """

    corrected_masks: Sequence[Any] = ()

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return read_pair(self.pairs[index][0], self.corrected_masks[index], self.max_side_px)


@dataclass(frozen=True)
class Corrections:
    """The masks of a training that are corrected while it runs.

    Args:
        samples: The images that are trained on.
        first: Their pseudo masks.
        folder: Where the corrected ones go, with the manifest of a stage.
        config: The segmenter's settings, with a correction.
        max_side_px: Longest side that images are shrunk to.
        said: Pixels that people gave, which no correction changes.
    """

    samples: Sequence[Sample]
    first: StageDir
    folder: StageDir
    config: SegmenterConfig
    max_side_px: int | None = None
    said: Said = field(default_factory=Said)

    @property
    def rule(self) -> Adele:
        """The settings of the correction."""
        return self.config.correction or Adele()

    def mask_paths(self) -> list[Any]:
        """Name the current mask of each sample."""
        return [self.folder.path / f"{sample.id}.png" for sample in self.samples]

    def begin(self) -> None:
        """Start from the first masks.

        Raises:
            OutputError: When masks cannot be written.
        """
        self.folder.begin()

        def work(sample: Sample) -> None:
            mask = read_mask(self.first.path / f"{sample.id}.png")
            write_mask(self.folder.path / f"{sample.id}.png", mask)

        # Copied again even where they are there: a training that starts over must not find the
        # corrections of the one before it.
        self.folder.for_each(
            list(self.samples),
            work,
            title="segment: masks to correct",
            is_still_good=lambda _sample, _line: False,
        )
        self.folder.finish()
        self._write({"ious": [], "classes": [], "epoch": 0})

    def note(self, epoch: int, ious: list[float | None]) -> None:
        """Keep the IoUs of an epoch (from 0); the same epoch again replaces them."""
        state = self.state()
        self._write(state | {"ious": [*state["ious"][:epoch], ious]})

    def state(self) -> dict[str, Any]:
        """Read what is known so far.

        Raises:
            OutputError: When somebody removed it.
        """
        try:
            state: dict[str, Any] = json.loads((self.folder.path / STATE_FILE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.folder.path / STATE_FILE} is missing or broken ({error}), so the training "
                "cannot go on. Do the stage again from nothing: wsseg segment RUN --force."
            ) from error
        return state

    def _write(self, state: dict[str, Any]) -> None:
        write_json(self.folder.path / STATE_FILE, state)

    def correct(self, epoch: int, net: nn.Module) -> None:
        """Correct the masks at the end of an epoch, once.

        Args:
            epoch: Complete epochs, from 1.
            net: Module from normalised images to logits (N, C + 1, H, W).
        """
        state = self.state()
        if state["epoch"] >= epoch:
            return
        classes = classes_to_correct(state["ious"][:epoch], state["classes"], self.rule)
        if classes:
            inference = self.config.inference.model_copy(
                update={"scales": self.rule.scales, "flip": self.rule.flip, "crf": None}
                | {"restrict_to_tags": False}
            )
            forward = TorchForward(
                net, in_channels=self.config.in_channels, precision=inference.precision
            )
            changed = sum(
                self._correct_image(sample, forward, inference, classes) for sample in self.samples
            )
            console.info(f"epoch {epoch}: classes {classes}, {changed} pixels corrected")
        self._write(state | {"classes": classes, "epoch": epoch})

    def _correct_image(
        self, sample: Sample, forward: TorchForward, inference: Any, classes: list[int]
    ) -> int:
        image = read_working_image(sample.image_path, self.max_side_px)
        path = self.folder.path / f"{sample.id}.png"
        mask, first = read_mask(path), read_mask(self.first.path / f"{sample.id}.png")
        size = image_size(sample.image_path)
        boxes = all_boxes(sample.labels) if forward.takes_boxes else None
        scale = (image.shape[0] / size[0], image.shape[1] / size[1])
        rows = None if boxes is None else box_rows(boxes, scale)
        values = predict_probabilities(forward, image, inference, boxes=rows)
        if self.rule.crf is not None:
            facts = ImageFacts(sample.id, image, sample.labels, first)
            values = crf_marginals(facts, values, self.rule.crf)
        values = resize_maps(values, size)
        result = corrected(
            mask, values, classes, first=first, labels=sample.labels, config=self.rule
        )
        result = self.said.pixels(sample, first).over(result)
        changed = int((result != mask).sum())
        if changed:
            write_mask(path, result)
        return changed


class CorrectedTask(nn.Module):
    """A segmenter's task that follows its IoU, corrects its masks, and agrees over scales.

    Args:
        task: The task, with ``net``, ``loss(batch)`` and ``num_classes``.
        corrections: The masks.
    """

    def __init__(self, task: Any, corrections: Corrections) -> None:
        super().__init__()
        self.task = task
        self.corrections = corrections
        self.scale_weights = nn.Parameter(torch.zeros(len(corrections.rule.scales)))
        self._counts = torch.zeros(3, task.num_classes + 1, dtype=torch.int64)
        self._epoch = 0

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, C + 1, H, W) of normalised images."""
        logits: Tensor = self.task(images)
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start from scratch, the weights of the scales among them."""
        return [*self.task.head_parameters(), self.scale_weights]

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Return the groups of a task that has its own, with the weights of the scales."""
        own = getattr(self.task, "parameter_groups", None)
        if own is None:
            return parameter_groups(self, config)
        return [*own(config), {"params": [self.scale_weights]}]

    def on_progress(self, fraction: float) -> None:
        """Tell the task which fraction of the training is over, for terms that begin later."""
        own = getattr(self.task, "on_progress", None)
        if own is not None:
            own(fraction)

    def on_epoch_start(self, epoch: int) -> None:
        """Correct the masks of the epoch that ended, before any item of the next is read."""
        own = getattr(self.task, "on_epoch_start", None)
        if own is not None:
            own(epoch)
        self._epoch = epoch
        self._counts = torch.zeros_like(self._counts)
        if epoch == 0:
            from_main_process(self.corrections.begin)
        else:
            from_main_process(lambda: self.corrections.correct(epoch, self.task.net))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the consistency term to the task's loss, and count what was predicted."""
        with _outputs(self.task) as seen:
            terms: dict[str, Tensor] = dict(self.task.loss(batch))
        logits = seen[0]
        self._count(logits.detach(), batch["mask"])
        rule = self.corrections.rule
        if rule.consistency == 0:
            return terms
        maps = [
            logits if scale == 1 else self.task(resized_images(batch["image"], scale))
            for scale in rule.scales
        ]
        term = scale_consistency(maps, self.scale_weights, rule.consistency_min_confidence)
        total = terms["loss"] + rule.consistency * term
        return terms | {"loss": total, "consistency": term.detach()}

    def _count(self, logits: Tensor, mask: Tensor) -> None:
        labels = mask.long()
        known = labels != IGNORE
        predicted, labels = logits.argmax(dim=1)[known], labels[known]
        size = self._counts.shape[1]
        found = [labels[predicted == labels], predicted, labels]
        self._counts += torch.stack([torch.bincount(part, minlength=size) for part in found]).cpu()

    def validated(
        self, validate: Callable[[nn.Module], Mapping[str, float]] | None
    ) -> Callable[[nn.Module], Mapping[str, float]]:
        """Wrap what is measured after an epoch, so that the IoUs of the epoch are kept, too."""

        def measure(net: nn.Module) -> Mapping[str, float]:
            ious = epoch_ious(_summed(self._counts, self.scale_weights.device).numpy())
            from_main_process(lambda: self.corrections.note(self._epoch, ious))
            known = [iou for iou in ious if iou is not None]
            own = {"train_iou": float(np.mean(known)) if known else float("nan")}
            return own | dict(validate(net) if validate is not None else {})

        return measure


@contextlib.contextmanager
def _outputs(task: Any) -> Iterator[list[Tensor]]:
    """Collect the logits that a task's loss computes meanwhile."""
    seen: list[Tensor] = []
    compute = getattr(task, "outputs", None)
    if compute is None:
        handle = task.net.register_forward_hook(lambda _net, _inputs, output: seen.append(output))
        try:
            yield seen
        finally:
            handle.remove()
        return

    def kept(batch: dict[str, Tensor]) -> Any:
        # Networks that also give features, or look at boxes, are not called as modules.
        found = compute(batch)
        seen.append(found[0])
        return found

    task.outputs = kept
    try:
        yield seen
    finally:
        del task.outputs


def _summed(counts: Tensor, device: torch.device) -> Tensor:
    """Add the counts of all processes."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return counts
    total = counts.to(device)
    dist.all_reduce(total)
    return total.cpu()
