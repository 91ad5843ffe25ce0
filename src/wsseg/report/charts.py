"""Charts as inline SVG: small, self-contained, readable aloud and on a phone.

Every chart is drawn 360 units wide, the width of a phone's page, so its 11-unit letters stay
legible there; wider pages put several charts side by side. Colours come from the page's style
sheet by class (``s0`` ... ``s4``), so both colour schemes work; a line also has its own dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 360
NUM_STYLES = 5
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34
_PLOT_HEIGHT = 150
_CHARACTER_WIDTH = 5.9
# An axis starts at zero when that wastes less than this share of its height.
_SHOW_ZERO_BELOW = 0.4


@dataclass(frozen=True)
class Bar:
    """One horizontal bar.

    Args:
        label: The words above it.
        value: A fraction in [0, 1], or None where undefined.
        style: Colour class, 0 to 4.
        note: Shown behind the value, such as ``tuned on masks``.
        hatched: Whether the bar is drawn as an outline, for results that are not comparable.
    """

    label: str
    value: float | None
    style: int = 0
    note: str = ""
    hatched: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a line chart; values that are not finite leave a gap.

    Args:
        name: The legend's words.
        xs: Positions, ascending.
        ys: Values, same length.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def bar_chart(bars: Sequence[Bar], *, title: str, description: str) -> Markup:
    """Draw fractions as horizontal bars on a common scale from 0 to 100 %.

    Args:
        bars: From top to bottom.
        title: What a screen reader says first.
        description: The chart in one or two sentences.

    Returns:
        An ``<svg>`` element.

    Example:
        >>> svg = bar_chart([Bar("pseudo", 0.5)], title="mIoU", description="One bar.")
        >>> "50.0" in svg
        True
    """
    row_height, plot_width = 36, WIDTH - 92
    parts = [_bar(bar, index * row_height, plot_width) for index, bar in enumerate(bars)]
    bottom = len(bars) * row_height
    body = "".join(parts) + _percent_axis(bottom, plot_width)
    return _svg(body, bottom + 20, title, description)


def _bar(bar: Bar, y: float, plot_width: float) -> str:
    label = escape(_clipped(bar.label, WIDTH))
    text = f'<text x="0" y="{y + 13:.0f}">{label}</text>'
    if bar.value is None or not math.isfinite(bar.value):
        return text + f'<text class="weak" x="0" y="{y + 28:.0f}">not defined</text>'
    width = max(0.0, min(1.0, bar.value)) * plot_width
    shape = "open" if bar.hatched else "bar"
    text += (
        f'<rect class="track" x="0" y="{y + 18:.0f}" width="{plot_width}" height="11" rx="1"/>'
        f'<rect class="{shape} s{bar.style % NUM_STYLES}" x="0" y="{y + 18:.0f}" '
        f'width="{width:.1f}" height="11" rx="1"/>'
        f'<text class="value" x="{plot_width + 8:.1f}" y="{y + 28:.0f}">{100 * bar.value:.1f}'
    )
    note = f' <tspan class="weak">{escape(bar.note)}</tspan>' if bar.note else ""
    return text + note + "</text>"


def _percent_axis(bottom: float, plot_width: float) -> str:
    marks = [
        f'<text class="weak" x="{fraction * plot_width:.1f}" y="{bottom + 14:.0f}" '
        f'text-anchor="{anchor}">{100 * fraction:.0f}{unit}</text>'
        for fraction, anchor, unit in ((0, "start", ""), (0.5, "middle", ""), (1, "end", " %"))
    ]
    return "".join(marks)


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    x_label: str,
    mark: tuple[float, float] | None = None,
) -> Markup:
    """Draw values over a common axis.

    Args:
        lines: At most five are told apart by colour; dashes tell all apart.
        title: What a screen reader says first.
        description: The chart in one or two sentences.
        x_label: What runs along the horizontal axis.
        mark: A point (x, y) to ring, such as the chosen threshold.

    Returns:
        An ``<svg>`` element; without any finite value it holds the words "no values".

    Example:
        >>> svg = line_chart([Line("loss", [1, 2], [3.0, 1.0])], title="t", description="d",
        ...                  x_label="epoch")
        >>> svg.count("<polyline")
        1
    """
    points = [
        (x, y)
        for line in lines
        for x, y in zip(line.xs, line.ys, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    if not points:
        return _svg('<text class="weak" x="0" y="20">no values</text>', 30, title, description)
    x_ticks = _ticks(min(x for x, _ in points), max(x for x, _ in points), 5, whole=x_label)
    low, high = min(y for _, y in points), max(y for _, y in points)
    y_ticks = _ticks(0.0 if 0 < low < _SHOW_ZERO_BELOW * high else low, high, 4)
    frame = _Frame(min(x for x, _ in points), max(x for x, _ in points), y_ticks[0], y_ticks[-1])
    body = _axes(frame, x_ticks, y_ticks, x_label)
    for index, line in enumerate(lines):
        body += _polylines(line, index, frame)
    if mark is not None:
        body += (
            f'<circle class="mark" cx="{frame.x(mark[0]):.1f}" cy="{frame.y(mark[1]):.1f}" r="5"/>'
        )
    height = _TOP + _PLOT_HEIGHT + _BOTTOM
    legend, extra = _legend(lines, height) if len(lines) > 1 else ("", 0)
    return _svg(body + legend, height + extra, title, description)


@dataclass(frozen=True)
class _Frame:
    """Turns values into drawing positions."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    def x(self, value: float) -> float:
        span = (self.x_max - self.x_min) or 1.0
        return _LEFT + (value - self.x_min) / span * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        span = (self.y_max - self.y_min) or 1.0
        return _TOP + _PLOT_HEIGHT * (1 - (value - self.y_min) / span)


def _axes(frame: _Frame, x_ticks: list[float], y_ticks: list[float], x_label: str) -> str:
    bottom = _TOP + _PLOT_HEIGHT
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="weak" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{_number(value)}</text>"
        )
    parts += [
        f'<text class="weak" x="{frame.x(value):.1f}" y="{bottom + 15}" '
        f'text-anchor="middle">{_number(value)}</text>'
        for value in x_ticks
        if frame.x_min <= value <= frame.x_max
    ]
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="weak" x="{WIDTH - _RIGHT}" y="{bottom + 30}" text-anchor="end">'
        f"{escape(x_label)}</text>"
    )
    return "".join(parts)


def _polylines(line: Line, index: int, frame: _Frame) -> str:
    """Draw one line, broken where values are not finite; a lone point becomes a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.xs, line.ys, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((frame.x(x), frame.y(y)))
        else:
            runs.append([])
    style = f"s{index % NUM_STYLES}"
    parts = []
    for run in runs:
        if len(run) == 1:
            x, y = run[0]
            parts.append(f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        elif run:
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            parts.append(f'<polyline class="line {style}" points="{places}"/>')
    return "".join(parts)


def _legend(lines: Sequence[Line], top: float) -> tuple[str, float]:
    """Lay the legend's entries out in rows; returns the drawing and its height."""
    x, y, parts = float(_LEFT), top + 4, []
    for index, line in enumerate(lines):
        name = _clipped(line.name, WIDTH - _LEFT - 40)
        needed = 26 + _CHARACTER_WIDTH * len(name) + 14
        if x + needed > WIDTH and x > _LEFT:
            x, y = float(_LEFT), y + 17
        parts.append(
            f'<line class="line s{index % NUM_STYLES}" x1="{x:.1f}" x2="{x + 20:.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{x + 26:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        )
        x += needed
    return "".join(parts), y - top + 12


def meter(value: float | None, *, style: int = 0) -> Markup:
    """Draw a fraction as a thin bar for a table cell; the number stands beside it in the table.

    Args:
        value: A fraction in [0, 1], or None where undefined: an empty bar.
        style: Colour class, 0 to 4.

    Returns:
        An ``<svg>`` element that screen readers skip.
    """
    width = 0.0 if value is None or not math.isfinite(value) else 100 * max(0.0, min(1.0, value))
    return Markup(
        '<svg class="meter" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>'
        f'<rect class="bar s{style % NUM_STYLES}" width="{width:.1f}" height="6"/></svg>'
    )


def _svg(body: str, height: float, title: str, description: str) -> Markup:
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    )
    return Markup(head + body + "</svg>")


def _ticks(low: float, high: float, wanted: int, *, whole: str = "") -> list[float]:
    """Choose round numbers that enclose [low, high]; epochs get whole numbers only."""
    if low == high:
        low, high = low - (abs(low) * 0.5 or 0.5), high + (abs(high) * 0.5 or 0.5)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    if whole in ("epoch", "step"):
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _number(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _clipped(text: str, width: float) -> str:
    room = int(width / _CHARACTER_WIDTH)
    return text if len(text) <= room else text[: room - 1] + "…"
