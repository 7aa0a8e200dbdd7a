"""Figures as inline SVG: they take the page's colours, light or dark, and load nothing."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 8, 8, 34  # margins for the axes, in SVG units
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

Series = Sequence[tuple[str, Sequence[float]]]  # (css class, one share for each bin)


def histogram(edges: Sequence[float], series: Series, axis: str) -> str:
    """Outlined, half transparent histograms over one another. `axis` names the horizontal one; shares go up in %."""
    top = max((max(values, default=0.0) for _, values in series), default=0.0) or 1.0
    shapes = []
    for css, values in series:
        points = [f"M{_LEFT},{_TOP + _PLOT_HEIGHT}"]
        for at, value in enumerate(values):
            y = _TOP + _PLOT_HEIGHT * (1 - value / top)
            points.append(f"L{_x(edges[at], edges):.1f},{y:.1f}L{_x(edges[at + 1], edges):.1f},{y:.1f}")
        points.append(f"L{WIDTH - _RIGHT},{_TOP + _PLOT_HEIGHT}Z")
        shapes.append(f'<path class="area {css}" d="{"".join(points)}"/>')
    ticks = [edges[0], (edges[0] + edges[-1]) / 2, edges[-1]]
    return _svg(axis, shapes + _across([(_x(tick, edges), short(tick)) for tick in ticks]) + _up(top), axis)


def intervals(rows: Sequence[tuple[str, float, float, float]], guides: Sequence[tuple[float, str]]) -> str:
    """Values in 0..1 with their intervals: (name, value, low, high) one below the other.

    Args:
      guides: (value, name) of vertical lines.
    """
    line, left, right, top = 26, 96, 14, 20
    low = min([0.4, *(row[2] for row in rows)])
    width, height = 640, top + line * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / (1 - low)

    shapes = []
    bottom = top + line * len(rows)
    for value, name in guides:
        shapes.append(f'<path class="guide" d="M{x(value):.1f},{top}V{bottom}"/>')
        shapes.append(f'<text class="tick" x="{x(value):.1f}" y="{top - 7}" text-anchor="middle">{escape(name)}</text>')
    for at, (name, value, lower, upper) in enumerate(rows):
        y = top + line * (at + 0.5)
        shapes.append(f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        shapes.append(f'<path class="whisker" d="M{x(lower):.1f},{y:.1f}H{x(upper):.1f}"/>')
        shapes.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y:.1f}" r="5"><title>{value:.3f}</title></circle>')
    marks = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    shapes += [
        f'<text class="tick" x="{x(mark):.1f}" y="{bottom + 16}" text-anchor="middle">{mark:.1f}</text>'
        for mark in marks
    ]
    axis = "AUC, cross-validated, with its 95 % interval"
    shapes.append(f'<text x="{(left + width) / 2:.0f}" y="{bottom + 31}" text-anchor="middle">{axis}</text>')
    return f'<svg class="wide" viewBox="0 0 {width} {height}" role="img" aria-label="{axis}">{"".join(shapes)}</svg>'


def stacked_bar(parts: Sequence[tuple[str, int]], whole: int) -> str:
    """A bar as wide as its parts together in `whole`: (css class, count)."""
    cells = "".join(
        f'<i class="{css}" style="width:{100 * count / max(whole, 1):.2f}%" title="{count:,}"></i>'
        for css, count in parts
    )
    return f'<span class="bar">{cells}</span>'


def short(value: float) -> str:
    """A number for an axis: 0.25, 3.1, 256, 12,000."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _x(value: float, edges: Sequence[float]) -> float:
    return _LEFT + _PLOT_WIDTH * (value - edges[0]) / (edges[-1] - edges[0])


def _across(ticks: list[tuple[float, str]]) -> list[str]:
    anchors = ("start", "middle", "end")
    return [f'<path class="axis" d="M{_LEFT},{_TOP + _PLOT_HEIGHT}H{WIDTH - _RIGHT}"/>'] + [
        f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="{anchor}">{name}</text>'
        for (x, name), anchor in zip(ticks, anchors, strict=True)
    ]


def _up(top: float) -> list[str]:
    return [
        f'<text class="tick" x="{_LEFT - 5}" y="{_TOP + _PLOT_HEIGHT * (1 - share) + 4:.1f}" text-anchor="end">'
        f"{100 * top * share:.3g} %</text>"
        for share in (0, 0.5, 1)
    ]


def _svg(label: str, shapes: list[str], axis: str) -> str:
    name = f'<text x="{_LEFT + _PLOT_WIDTH / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(axis)}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(shapes)}{name}</svg>'
