"""Numbers of a run: ``metrics.json`` and the training curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsseg.atomic import read_jsonl
from wsseg.report.model import ClassifierResult, ClassResult, Curve, StageResult

METRICS_FILE = "metrics.json"
CURVES_FILE = "metrics.jsonl"
_NO_CURVES = {"epoch", "step", "seconds", "time", "images_per_s"}


def read_results(
    run_dir: Path, colours: Sequence[str], problems: list[str]
) -> tuple[tuple[StageResult, ...], ClassifierResult | None]:
    """Read ``metrics.json``.

    Args:
        run_dir: The run folder.
        colours: ``#rrggbb`` per class id.
        problems: Gets a sentence for each entry that cannot be understood.

    Returns:
        The stages' results in the order of the file, and the classifier's; empty and None when
        nothing was scored.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return (), None
    try:
        content = json.loads(path.read_text("utf-8"))
        entries = content["stages"]
        stages = tuple(_stage(entry, colours) for entry in entries)
        return stages, _classifier(content.get("classifier"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(
            f"{METRICS_FILE} cannot be understood ({error!r}); run `wsseg evaluate` again"
        )
        return (), None


def _stage(entry: dict[str, Any], colours: Sequence[str]) -> StageResult:
    threshold, confusion = number(entry.get("threshold")), entry.get("confusion") or []
    return StageResult(
        stage=str(entry["stage"]),
        label=str(entry.get("label") or entry["stage"]),
        split=str(entry.get("split") or ""),
        tags=entry.get("tags"),
        threshold=threshold,
        tuned_on_masks=bool(entry.get("tuned_on_masks")),
        num_images=int(entry.get("num_images") or 0),
        miou=number(entry.get("miou")),
        miou_foreground=number(entry.get("miou_foreground")),
        pixel_accuracy=number(entry.get("pixel_accuracy")),
        boundary_iou=number(entry.get("boundary_iou")),
        ignored=number(entry.get("ignored")),
        classes=tuple(_class(item, colours) for item in entry.get("classes") or []),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        curve=_threshold_curve(entry.get("curve")),
    )


def _class(item: dict[str, Any], colours: Sequence[str]) -> ClassResult:
    class_id, pixels = int(item["id"]), number(item.get("gt_pixels"))
    return ClassResult(
        id=class_id,
        name=str(item.get("name") or class_id),
        colour=colours[class_id] if class_id < len(colours) else "",
        iou=number(item.get("iou")),
        precision=number(item.get("precision")),
        recall=number(item.get("recall")),
        boundary_iou=number(item.get("boundary_iou")),
        gt_pixels=None if pixels is None else int(pixels),
    )


def _threshold_curve(value: Any) -> tuple[tuple[float, float], ...]:
    """Read a sweep: ``{"thresholds": [...], "miou": [...]}`` or a list of pairs."""
    if isinstance(value, dict):
        value = list(zip(value.get("thresholds") or [], value.get("miou") or [], strict=False))
    pairs = [(number(x), number(y)) for x, y in value or []]
    return tuple((x, y) for x, y in pairs if x is not None and y is not None)


def _classifier(value: Any) -> ClassifierResult | None:
    if not isinstance(value, dict):
        return None
    ap = {str(name): number(score) for name, score in (value.get("ap") or {}).items()}
    return ClassifierResult(str(value.get("split") or ""), number(value.get("map")), ap)


def read_curves(run_dir: Path) -> tuple[Curve, ...]:
    """Read the training curves of every trained stage.

    An epoch that was trained twice, because the run was killed in between, counts once: its
    last line.

    Args:
        run_dir: The run folder.

    Returns:
        One curve per stage and quantity, losses first.
    """
    curves: list[Curve] = []
    for path in sorted(run_dir.rglob(CURVES_FILE)):
        stage = path.parent.relative_to(run_dir).as_posix().removesuffix("/training")
        curves += _stage_curves(stage, read_jsonl(path))
    return tuple(curves)


def _stage_curves(stage: str, records: list[Any]) -> list[Curve]:
    by_epoch: dict[float, dict[str, Any]] = {}
    for index, record in enumerate(records):
        if isinstance(record, dict):
            epoch = number(record.get("epoch"))
            by_epoch[float(index) if epoch is None else epoch] = record
    epochs = sorted(by_epoch)
    names = dict.fromkeys(
        name
        for epoch in epochs
        for name, value in by_epoch[epoch].items()
        if name not in _NO_CURVES and number(value) is not None
    )
    ordered = sorted(names, key=lambda name: (name != "loss", "loss" not in name, name == "lr"))
    curves = []
    for name in ordered:
        values = [number(by_epoch[epoch].get(name)) for epoch in epochs]
        ys = tuple(math.nan if value is None else value for value in values)
        curves.append(Curve(stage, name, tuple(epochs), ys))
    return curves


def number(value: Any) -> float | None:
    """Read a finite number; anything else is None.

    Example:
        >>> number(3), number(float("nan")), number("x"), number(True)
        (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
