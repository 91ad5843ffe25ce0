"""Which charts the report shows, made from a run's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from wsseg.report.charts import Bar, Line, bar_chart, line_chart
from wsseg.report.model import Curve, StageResult

_SPLIT_STYLES = {"train": 1, "val": 0, "test": 2}
_MAX_LINES = 5


class Figure(NamedTuple):
    """A chart with its words."""

    title: str
    svg: Markup
    caption: str = ""


def stage_chart(stages: Sequence[StageResult]) -> Markup:
    """Draw the mean IoU of every stage, in the order of the chain.

    Args:
        stages: The stages' results.

    Returns:
        An ``<svg>`` element; empty without results.
    """
    if not stages:
        return Markup("")
    bars = [
        Bar(
            label=f"{stage.label} · {stage.split}" if stage.split else stage.label,
            value=stage.miou,
            style=_SPLIT_STYLES.get(stage.split, 3),
            note="tuned" if stage.tuned_on_masks else "",
            hatched=stage.tuned_on_masks,
        )
        for stage in stages
    ]
    values = "; ".join(
        f"{bar.label} {'undefined' if bar.value is None else f'{100 * bar.value:.1f} per cent'}"
        for bar in bars
    )
    return bar_chart(bars, title="Mean IoU by stage", description=f"Horizontal bars: {values}.")


def threshold_figures(stages: Sequence[StageResult]) -> list[Figure]:
    """Draw mean IoU over the background threshold, for every stage that has a sweep.

    Stages that share a sweep, read at different thresholds, share a chart.

    Args:
        stages: The stages' results.

    Returns:
        One figure per sweep.
    """
    figures: list[Figure] = []
    drawn: set[tuple[str, tuple[tuple[float, float], ...]]] = set()
    for stage in stages:
        key = (stage.split, stage.curve)
        if not stage.curve or key in drawn:
            continue
        drawn.add(key)
        xs, ys = [x for x, _ in stage.curve], [100 * y for _, y in stage.curve]
        best = max(range(len(ys)), key=ys.__getitem__)
        has_mark = stage.threshold is not None and stage.miou is not None
        mark = (stage.threshold or 0.0, 100 * (stage.miou or 0.0)) if has_mark else None
        svg = line_chart(
            [Line("mIoU", xs, ys)],
            title=f"{stage.label}, {stage.split}: mean IoU over the threshold",
            description=f"Best {ys[best]:.1f} per cent at {xs[best]:.2f}.",
            x_label="threshold",
            mark=mark,
        )
        ring = "; the ring is the threshold of the table" if has_mark else ""
        caption = (
            f"{stage.label}, {stage.split}: mIoU in per cent over the threshold, best "
            f"{ys[best]:.1f} at {xs[best]:.2f}{ring}."
        )
        figures.append(Figure(stage.label, svg, caption))
    return figures


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
