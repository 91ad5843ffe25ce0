"""The pseudo stage: refined scores to palette PNG masks, with a doubt score per image."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from wsseg.atomic import write_text
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import image_size, write_mask
from wsseg.data.labels import IGNORE
from wsseg.data.scores import load_scores
from wsseg.pseudo.corrections import corrections_fingerprint, find_corrections, read_correction
from wsseg.pseudo.doubt import MaskEvidence, doubt_scores, mask_evidence
from wsseg.pseudo.masks import PseudoMaskConfig, pseudo_mask
from wsseg.rundir import StageDir

VERSION = 1
DOUBT_FILE = "doubt.jsonl"


def pseudo(dataset: Dataset, config: PseudoMaskConfig, before: StageDir, stage: StageDir) -> None:
    """Write ``ID.png`` for every image that has scores or a correction, and ``doubt.jsonl``.

    Masks have the size and orientation of the upright image, whatever the scores were made at.
    Corrections by people are laid over them; an image that has nothing else is ignored elsewhere.

    Args:
        dataset: The data set.
        config: The rule.
        before: The stage whose scores become masks.
        stage: Where the masks go.

    Raises:
        OutputError: When masks cannot be written.
    """
    if stage.begin():
        return
    started = time.perf_counter()

    scored = {sample.id for sample in before.usable(dataset.samples)}
    drawn = {} if config.corrections is None else find_corrections(config.corrections)

    def work(sample: Sample) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        mask = np.full(image_size(sample.image_path), IGNORE, np.uint8)
        if sample.id in scored:
            scores = load_scores(before.file("scores", sample.id, ".npz"))
            scores = replace(scores, size=mask.shape)
            mask = pseudo_mask(scores, config, sample.labels.tags)
            facts["evidence"] = asdict(mask_evidence(scores, mask, sample.labels.tags))
        if sample.id in drawn:
            given = read_correction(drawn[sample.id])
            mask = given.over(mask)
            facts["corrected_frac"] = round(float(given.is_given.mean()), 5)
        write_mask(stage.path / f"{sample.id}.png", mask)
        return facts

    items = [s for s in dataset.samples if s.id in scored or s.id in drawn]
    stage.for_each(items, work, title="pseudo masks")
    _write_doubt(stage)
    stage.finish(seconds=time.perf_counter() - started)


def fingerprint_settings(config: PseudoMaskConfig) -> dict[str, Any]:
    """List the settings that masks depend on, for the stage's fingerprint.

    Args:
        config: The rule, with `no_evidence` resolved.

    Returns:
        JSON-able. Settings that came later are not named where they change nothing, so that older
        runs are still recognised.
    """
    unused = {"corrections"}
    if config.no_evidence == "background":
        unused.add("no_evidence")
    content = config.model_dump(mode="json", exclude=unused)
    if config.corrections is not None:
        content["corrections"] = corrections_fingerprint(config.corrections)
    return content


def _write_doubt(stage: StageDir) -> None:
    """Doubt compares an image with all others, so it is computed when all are there."""
    import json

    evidence = {}
    for image_id, line in stage.manifest().items():
        if line["status"] == "ok" and "evidence" in line:
            found = line["evidence"]
            areas = {int(key): float(value) for key, value in found["areas"].items()}
            evidence[image_id] = MaskEvidence(**{**found, "areas": areas})
    lines = [
        json.dumps({"id": image_id, "doubt": round(doubt, 5)}, ensure_ascii=False)
        for image_id, doubt in doubt_scores(evidence).items()
    ]
    write_text(stage.path / DOUBT_FILE, "\n".join(lines) + "\n")
