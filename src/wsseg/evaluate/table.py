"""Numbers as text tables for the terminal; percentages, one row per stage or class."""

from __future__ import annotations

from typing import Any


def percent(value: float | None) -> str:
    """Write a fraction in percent.

    Example:
        >>> percent(0.5), percent(None)
        ('50.0', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def stage_notes(stage: dict[str, Any]) -> str:
    """Say what a number owes to a threshold, to tags and to ground-truth masks.

    Args:
        stage: An entry of ``metrics.json``.

    Example:
        >>> stage_notes({"threshold": 0.25, "tags": "oracle", "tuned_on_masks": True})
        'threshold 0.25, oracle tags, TUNED ON MASKS'
    """
    notes = []
    if stage.get("threshold") is not None:
        notes.append(f"threshold {stage['threshold']:.2f}")
    if stage["tags"]:
        notes.append(f"{stage['tags']} tags")
    if stage["tuned_on_masks"]:
        notes.append("TUNED ON MASKS")
    return ", ".join(notes)


def stages_text(metrics: dict[str, Any]) -> str:
    """Draw one row per stage and split of ``metrics.json``.

    Args:
        metrics: The content of ``metrics.json``.

    Returns:
        The table; rows that ground-truth masks had a part in are marked.
    """
    head = f"{'stage':<30} {'split':<6} {'mIoU %':>7} {'fg %':>6} {'images':>7}"
    lines = [head, "-" * len(head)]
    lines += [
        f"{stage['label']:<30} {stage['split']:<6} {percent(stage['miou']):>7} "
        f"{percent(stage['miou_foreground']):>6} {stage['num_images']:>7}  {stage_notes(stage)}"
        for stage in metrics["stages"]
    ]
    classifier = metrics.get("classifier")
    if classifier:
        lines.append(
            f"{'Classifier mAP':<30} {classifier['split']:<6} {percent(classifier['map']):>7}"
        )
    return "\n".join(lines)


def metrics_text(metrics: dict[str, Any]) -> str:
    """Draw the class table of each stage, for ``wsseg evaluate PRED GT``.

    Args:
        metrics: What `wsseg.evaluate.folders.evaluate_folders` returns.

    Returns:
        The tables, and which files had no partner.
    """
    lines = []
    for stage in metrics["stages"]:
        head = f"{'class':<20} {'IoU %':>7} {'prec. %':>8} {'recall %':>9} {'bound. IoU %':>13}"
        lines += [head, "-" * len(head)]
        for row in stage["classes"]:
            lines.append(
                f"{row['name']:<20} {percent(row['iou']):>7} {percent(row['precision']):>8} "
                f"{percent(row['recall']):>9} {percent(row['boundary_iou']):>13}"
            )
        lines += [
            "-" * len(head),
            f"mIoU {percent(stage['miou'])} % with background, "
            f"{percent(stage['miou_foreground'])} % without, "
            f"pixel accuracy {percent(stage['pixel_accuracy'])} %, {stage['num_images']} images",
        ]
    for key, words in (
        ("missing_predictions", "ground-truth masks without a prediction (not scored)"),
        ("predictions_without_truth", "predictions without ground truth"),
    ):
        names = metrics.get(key) or []
        if names:
            lines.append(
                f"{len(names)} {words}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            )
    return "\n".join(lines)
