"""Train the same segmenter on ground-truth masks: the ceiling of what weak labels can reach."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from wsseg.atomic import append_jsonl
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset
from wsseg.data.image_io import image_size, read_mask, write_mask
from wsseg.evaluate.stage import EvaluateInputs, evaluate
from wsseg.localize.stage import train_localizer
from wsseg.nets.cam_head import ClassMapNet
from wsseg.plan import plan
from wsseg.recipe import Recipe
from wsseg.rundir import RunDir, StageDir, fingerprint
from wsseg.segment.stage import predict, segment


def train_ceiling(
    dataset: Dataset, recipe: Recipe, out: Path, weak: Path | None = None
) -> dict[str, Any]:
    """Give the recipe's segmenter the true masks of the train split and score it on val.

    Args:
        dataset: Data set with masks.
        recipe: The recipe whose segmenter is trained.
        out: Folder for the masks, the training and the predictions.
        weak: Folder of the run on weak labels, whose localizer the segmenter starts from where
            the recipe says so.

    Returns:
        The ``segment`` entry of the val split, with ``seconds``.
    """
    mark = fingerprint("ceiling", dataset.fingerprint(), recipe.model_dump(mode="json"))
    masks = StageDir(out / "masks", mark)
    if not masks.begin():
        for sample in dataset.split("train"):
            target = masks.path / f"{sample.id}.png"
            if sample.mask_path is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(sample.mask_path, target)
            elif sample.labels.tags == frozenset():
                import numpy as np

                write_mask(target, np.zeros(image_size(sample.image_path), np.uint8))
            else:
                continue
            read_mask(target, dataset.classes)
            append_jsonl(masks.path / "manifest.jsonl", {"id": sample.id, "status": "ok"})
        masks.finish()
    if recipe.segment is None:
        raise SystemExit("the recipe has no segmenter, so there is no ceiling")
    trained, predicted = StageDir(out / "segment", mark), StageDir(out / "predictions", mark)
    context = RunContext(recipe.seed, recipe.max_side_px, allow_masks=True)

    def localizer() -> ClassMapNet:
        if weak is None:
            raise SystemExit("segment.weights is localizer, but no run is given")
        stage = plan(RunDir(weak), dataset, recipe, use_masks=False).localize
        return train_localizer(dataset, recipe.localize, stage, context)

    segment(dataset, recipe.segment, masks, trained, context, localizer)
    predict(dataset, trained, predicted)
    inputs = EvaluateInputs(
        localize=StageDir(out / "none", mark),
        refine=(),
        pseudo=StageDir(out / "none", mark),
        predictions=predicted,
        tags="oracle",
        segmenter_tuned_on_masks=False,
        boundary_width_frac=recipe.evaluate.boundary_width_frac,
    )
    document = evaluate(dataset, inputs, StageDir(out / "evaluate", mark), out / "metrics.json")
    entries = [e for e in document["stages"] if e["stage"] == "segment" and e["split"] == "val"]
    return entries[0] | {"seconds": trained.state()["seconds"]}
