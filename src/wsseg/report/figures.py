"""Which charts the report shows, made from a run's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from wsseg.report.charts import Bar, Line, bar_chart, line_chart
from wsseg.report.model import Curve, StageResult

_SPLIT_STYLES = {"train": 1, "val": 0, "test": 2}
_SPLIT_ORDER = ("test", "val", "train")
_MAX_LINES = 5


class Figure(NamedTuple):
    """A chart with its words."""

    title: str
    svg: Markup
    caption: str = ""


def stage_figures(stages: Sequence[StageResult]) -> list[Figure]:
    """Draw the mean IoU of every stage in the order of the chain, one chart per split.

    Args:
        stages: The stages' results.

    Returns:
        One figure per split, unseen images first; none without results.
    """
    return [_stage_figure(split, stages) for split in _splits(stages)]


def _splits(stages: Sequence[StageResult]) -> list[str]:
    return sorted(
        {stage.split for stage in stages},
        key=lambda name: (_SPLIT_ORDER.index(name) if name in _SPLIT_ORDER else 9, name),
    )


def _stage_figure(split: str, stages: Sequence[StageResult]) -> Figure:
    bars = [
        Bar(
            label=stage.label,
            value=stage.miou,
            style=_SPLIT_STYLES.get(split, 3),
            note="tuned" if stage.tuned_on_masks else "",
            hatched=stage.tuned_on_masks,
        )
        for stage in stages
        if stage.split == split
    ]
    values = "; ".join(
        f"{bar.label} {'undefined' if bar.value is None else f'{100 * bar.value:.1f} per cent'}"
        for bar in bars
    )
    what = f"Mean IoU by stage, {split or 'all images'}"
    svg = bar_chart(bars, title=what, description=f"Horizontal bars: {values}.")
    caption = "Per cent, over the classes and background."
    if any(bar.hatched for bar in bars):
        caption += " For outlined bars ground-truth masks chose a setting: they tell what would be "
        caption += "possible with masks."
    return Figure(what, svg, caption)


def threshold_figures(stages: Sequence[StageResult]) -> list[Figure]:
    """Draw mean IoU over the background threshold, for every stage that has a sweep.

    Stages that read one sweep at different thresholds share a chart; the ring marks the one
    that was chosen without masks, if there is one.

    Args:
        stages: The stages' results.

    Returns:
        One figure per sweep.
    """
    groups: dict[tuple[str, tuple[tuple[float, float], ...]], list[StageResult]] = {}
    for stage in stages:
        if stage.curve:
            groups.setdefault((stage.split, stage.curve), []).append(stage)
    order = _splits(stages)
    ranked = sorted(groups.values(), key=lambda group: order.index(group[0].split))
    return [_threshold_figure(min(group, key=lambda s: s.tuned_on_masks)) for group in ranked]


def _threshold_figure(stage: StageResult) -> Figure:
    xs, ys = [x for x, _ in stage.curve], [100 * y for _, y in stage.curve]
    best = max(range(len(ys)), key=ys.__getitem__)
    mark = None
    caption = f"Per cent. Best {ys[best]:.1f} at {xs[best]:.2f}, which only masks can tell"
    if stage.threshold is not None and stage.miou is not None:
        mark = (stage.threshold, 100 * stage.miou)
        caption += f"; ring: “{stage.label}”, {100 * stage.miou:.1f} at {stage.threshold:.2f}"
    what = f"Mean IoU over the threshold, {stage.split or 'all images'}"
    svg = line_chart(
        [Line("mIoU", xs, ys)],
        title=what,
        description=caption + ".",
        x_label="threshold",
        mark=mark,
    )
    return Figure(what, svg, caption + ".")


def curve_figures(curves: Sequence[Curve]) -> list[Figure]:
    """Draw the training curves: losses of a stage together, then its measures, each alone.

    Args:
        curves: The curves of all stages.

    Returns:
        The figures, stage by stage.
    """
    figures = []
    for stage in dict.fromkeys(curve.stage for curve in curves):
        own = [curve for curve in curves if curve.stage == stage]
        losses = [curve for curve in own if "loss" in curve.name]
        figures += [
            _curves(stage, "loss", losses[start : start + _MAX_LINES])
            for start in range(0, len(losses), _MAX_LINES)
        ]
        figures += [
            _curves(stage, _words(curve.name), [curve]) for curve in own if "loss" not in curve.name
        ]
    return figures


def _curves(stage: str, what: str, curves: Sequence[Curve]) -> Figure:
    lines = [Line(curve.name, curve.xs, curve.ys) for curve in curves]
    last = "; ".join(f"{curve.name} ends at {curve.ys[-1]:.4g}" for curve in curves)
    title = f"{stage}: {what}"
    description = f"{len(curves[0].xs)} epochs; {last}."
    return Figure(title, line_chart(lines, title=title, description=description, x_label="epoch"))


def _words(name: str) -> str:
    return {"lr": "learning rate"}.get(name, name.replace("_", " ").replace("miou", "mIoU"))
