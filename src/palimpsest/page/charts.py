"""The page's drawings, as inline SVG that needs no script: verdict strips, trade-off, curves and change bars.

All colors come from the style sheet, so that a drawing follows the page into dark mode and onto paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from palimpsest.page.text import amount, digits_of, escape
from palimpsest.report import Curve

__all__ = ["Mark", "change_bar", "curve_panel", "strip", "ticks", "tradeoff"]

WIDTH, HEIGHT = 720, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 56
"""The frame of the trade-off; the script draws other axes into the same frame."""


LIFTS = (-8, 8, -24, 24, -40, 40, -56, 56, -72, 72)
"""How far above or below its point a label may stand, the nearest first."""

Box = tuple[float, float, float, float]
"""Left, top, width and height of something that a label must not cover."""


@dataclass(frozen=True)
class Mark:
    """A run as it is drawn: its name, its kind, and (value, low, high) on one or two axes."""

    label: str
    kind: str
    x: tuple[float, float, float]
    y: tuple[float, float, float] = (0.0, math.nan, math.nan)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that lie within [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def extent(values: Sequence[float]) -> tuple[float, float]:
    """The range of the finite values with a margin; never empty."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = 0.08 * (high - low) or 0.08 * abs(high) or 0.5
    return low - margin, high + margin


def shape(kind: str, x: float, y: float, size: float = 5.5) -> str:
    """Every kind of run has a shape of its own, so that color is never the only difference."""
    s = size
    if kind in ("before", "after"):
        look, radius = ("hollow", s) if kind == "before" else ("accent", s + 0.5)
        return f'<circle class="mark {look}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
    if kind == "reference":
        r = s + 2
        return f'<path class="mark hollow" d="M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z"/>'
    if kind in ("variant", "stage"):
        look = "accent" if kind == "variant" else "solid"
        return f'<path class="mark {look}" d="M{x:.1f} {y - s - 1:.1f}l{s + 1} {2 * s}h{-2 * s - 2}z"/>'
    side = 2 * s - 2
    return f'<rect class="mark solid" x="{x - s + 1:.1f}" y="{y - s + 1:.1f}" width="{side}" height="{side}"/>'


def line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line of one of the style sheet's kinds."""
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def words(name: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """A piece of text; ``text`` is HTML already."""
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def scale(domain: tuple[float, float], low: float, high: float) -> Callable[[float], float]:
    """The linear map of ``domain`` to [low, high]."""
    start, width = domain[0], (domain[1] - domain[0]) or 1.0
    return lambda value: low + (value - start) / width * (high - low)


def strip(marks: Sequence[Mark], title: str) -> str:
    """Before, after and the reference under each other on one scale, with their intervals, for a verdict."""
    width, row, left, right = 290, 22, 92, 44
    domain, digits = extent([v for mark in marks for v in mark.x]), digits_of(*[m.x[0] for m in marks])
    at = scale(domain, left, width - right)
    parts = []
    for place, mark in enumerate(marks):
        value, low, high = mark.x
        y = row * (place + 0.5)
        short = mark.label if len(mark.label) <= 14 else f"{mark.label[:13]}…"
        parts.append(words("tick", 0, y + 4, escape(short)) + line("axis", left, y, width - right, y))
        if math.isfinite(low) and math.isfinite(high):
            parts.append(line("whisker", at(low), y, at(high), y))
        parts.append(shape(mark.kind, at(value), y, 4.5))
        parts.append(words("figure", width, y + 4, amount(value, digits), "end"))
    return _svg(width, row * len(marks), title, "", "".join(parts), "strip")


def tradeoff(marks: Sequence[Mark], x_label: str, y_label: str) -> str:
    """Every run at its two figures, with interval crosses and its name beside it."""
    xs, ys = extent([v for mark in marks for v in mark.x]), extent([v for mark in marks for v in mark.y])
    at_x, at_y = scale(xs, LEFT, WIDTH - RIGHT), scale(ys, HEIGHT - BOTTOM, TOP)
    parts = _frame(ticks(*xs), ticks(*ys), at_x, at_y, x_label, y_label)
    placed: list[Box] = []
    for mark in marks:
        x, y = at_x(mark.x[0]), at_y(mark.y[0])
        placed.append((x - 7, y - 7, 14, 14))
        if all(math.isfinite(v) for v in mark.x):
            left, right = at_x(mark.x[1]), at_x(mark.x[2])
            parts.append(line("whisker", left, y, right, y))
            placed.append((left, y - 1, right - left, 2))
        if all(math.isfinite(v) for v in mark.y):
            top, bottom = at_y(mark.y[2]), at_y(mark.y[1])
            parts.append(line("whisker", x, top, x, bottom))
            placed.append((x - 1, top, 2, bottom - top))
    for mark in marks:
        x, y = at_x(mark.x[0]), at_y(mark.y[0])
        left, base = place(mark.label, x, y, placed)
        parts.append(shape(mark.kind, x, y) + words(f"name {mark.kind}", left, base, escape(mark.label)))
    described = "; ".join(f"{m.label}: {amount(m.x[0])}, {amount(m.y[0])}" for m in marks)
    return _svg(WIDTH, HEIGHT, f"{y_label} against {x_label}", described, "".join(parts), "tradeoff")


def place(label: str, x: float, y: float, placed: list[Box]) -> tuple[float, float]:
    """Left end and base line of a label beside its point, at the first spot that is free; adds it to ``placed``."""
    w = 7.2 * len(label)
    spots = [(side, y + lift) for lift in LIFTS for side in (x + 11, x - 11 - w, x - w / 2)]
    inside = [s for s in spots if LEFT < s[0] < WIDTH - w - 2 and TOP - 12 < s[1] < HEIGHT - BOTTOM - 14]

    def free(spot: tuple[float, float]) -> bool:
        a, b = spot
        return not any(a < left + v and left < a + w and b < top + h and top < b + 16 for left, top, v, h in placed)

    spot = next((s for s in inside if free(s)), (inside or spots)[0])
    placed.append((*spot, w, 16))
    return spot[0], spot[1] + 12


def _frame(
    across: Sequence[float],
    upward: Sequence[float],
    at_x: Callable[[float], float],
    at_y: Callable[[float], float],
    x_label: str,
    y_label: str,
) -> list[str]:
    floor, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in across:
        x = at_x(value)
        parts.append(line("grid", x, TOP, x, floor) + words("tick", x, floor + 18, _tick(value), "middle"))
    for value in upward:
        y = at_y(value)
        parts.append(line("grid", LEFT, y, end, y) + words("tick", LEFT - 8, y + 4, _tick(value), "end"))
    parts.append(words("label", (LEFT + end) / 2, HEIGHT - 12, escape(x_label), "middle"))
    turn = f'transform="translate(14 {(TOP + floor) / 2}) rotate(-90)"'
    parts.append(f'<text class="label" {turn} text-anchor="middle">{escape(y_label)}</text>')
    return parts


def _tick(value: float) -> str:
    return f"{value:.10g}".replace("-", "−")


def curve_panel(name: str, curves: Sequence[Curve], labels: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """One quantity over the steps of every run, as a panel of the small multiples."""
    points = {c.run: [p for p in thin(c.points) if math.isfinite(p[1])] for c in curves}
    points = {run: of_run for run, of_run in points.items() if of_run}
    width, height, left, right, top, bottom = 340, max(190, 13 * len(points) + 30), 46, 104, 12, 26
    steps = [p[0] for of_run in points.values() for p in of_run]
    if not steps:
        return ""
    xs, ys = (min(steps), max(steps)), extent([p[1] for of_run in points.values() for p in of_run])
    at_x, at_y = scale(xs, left, width - right), scale(ys, height - bottom, top)
    parts = []
    for value in ticks(*ys, 3):
        y = at_y(value)
        parts.append(line("grid", left, y, width - right, y) + words("tick", left - 6, y + 4, _tick(value), "end"))
    for value in ticks(*xs, 3):
        parts.append(words("tick", at_x(value), height - 8, f"{value:,.10g}", "middle"))
    ends = []
    for order, (run, of_run) in enumerate(points.items()):
        kind = "accent" if kinds.get(run) in ("after", "variant") else f"other dash{order % 4}"
        path = "L".join(f"{at_x(step):.1f} {at_y(value):.1f}" for step, value in of_run)
        parts.append(f'<path class="curve {kind}" d="M{path}"/>')
        ends.append((at_y(of_run[-1][1]), at_x(of_run[-1][0]), labels.get(run, run), kind))
    ends.sort()
    for floor, (_, x, label, kind) in zip(_apart([y + 4 for y, *_ in ends], 13, height - bottom + 4), ends):
        short = label if len(label) <= 16 else f"{label[:6]}…{label[-9:]}"  # compared runs differ at either end
        parts.append(words(f"name {kind}", x + 5, floor, escape(short)))
    described = "; ".join(f"{labels.get(r, r)} ends at {amount(p[-1][1])}" for r, p in points.items())
    return _svg(width, height, f"{name} over the steps", described, "".join(parts), "panel")


def _apart(places: Sequence[float], least: float, end: float) -> list[float]:
    """Rising ``places``, moved down so that they are ``least`` apart, and then up so that none lies beyond ``end``."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + least) if found else place)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], end - least * (len(found) - 1 - i))
    return found


def thin(points: Sequence[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """At most about ``most`` points; the lowest and the highest of every stretch stay, so no spike is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most / 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = sorted(points[start : start + size], key=lambda p: p[1] if math.isfinite(p[1]) else 0.0)
        kept += sorted({stretch[0], stretch[-1]})
    return [points[0], *[p for p in kept if p not in (points[0], points[-1])], points[-1]]


def change_bar(value: float, low: float, high: float, reach: float) -> str:
    """A change with its interval around 0; ``reach`` is the largest change of the same audit."""
    if not (math.isfinite(value) and reach > 0):
        return ""
    width, y = 110, 8
    at = scale((-reach, reach), 5, width - 5)
    parts = [line("zero", width / 2, 0, width / 2, 16)]
    if math.isfinite(low) and math.isfinite(high):
        parts.append(line("whisker", at(low), y, at(high), y))
    look = "accent" if low > 0 or high < 0 else "hollow"
    parts.append(f'<circle class="mark {look}" cx="{at(value):.1f}" cy="{y}" r="3.5"/>')
    return f'<svg class="bar" viewBox="0 0 {width} 16" aria-hidden="true">{"".join(parts)}</svg>'


def _svg(width: int, height: int, title: str, described: str, body: str, name: str) -> str:
    detail = f"<desc>{escape(described)}</desc>" if described else ""
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{detail}{body}</svg>"
    )
