"""Curves as pictures inside their pages: SVGs drawn when the site is built, without any script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from palimpsest.verdict import number

__all__ = ["curve", "measured"]

WIDTH, HEIGHT, MARGIN = 640, 220, 34
LABELS = 150
"""Room for the names of the lines, right of where they end."""
DASHES = ("none", "7 4", "2 3", "9 3 2 3", "4 2")
POINTS = 640
JUMP = 0.05
"""A difference between two neighboring points above this is a jump, and drawn as a gap."""


def curve(schedule: Callable[[float], float], title: str) -> str:
    """An SVG of ``schedule`` over progress from 0 to 1, in the colors of the page; ``title`` is read out."""
    values = [schedule(i / POINTS) for i in range(POINTS + 1)]
    top = max(1.0, *values)
    runs: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if i and abs(value - values[i - 1]) > JUMP * top:
            runs.append([])
        runs[-1].append(f"{_x(i / POINTS):.1f},{_y(value / top):.1f}")
    lines = "".join(f'<polyline points="{" ".join(run)}"/>' for run in runs if len(run) > 1)
    across = "".join(_label(_x(p), HEIGHT - 12, "middle", f"{p:g}") for p in (0, 0.25, 0.5, 0.75, 1))
    up = "".join(_label(MARGIN - 6, _y(share) + 4, "end", f"{share * top:g}") for share in (0, 0.5, 1))
    grid = "".join(f'<path d="M{MARGIN} {_y(share):.1f}H{WIDTH - MARGIN}"/>' for share in (0, 0.5, 1))
    return _figure(title, grid, lines, across + up)


def measured(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """An SVG of lines by name, each of (step, value); the dashes tell them apart without color."""
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    first, last, low, high = min(steps), max(steps), min(values), max(values)

    def x(step: float) -> float:
        return MARGIN + 8 + (step - first) / ((last - first) or 1) * (WIDTH - MARGIN - 8 - LABELS)

    def y(value: float) -> float:
        return _y((value - low) / ((high - low) or 1))

    drawn, names, floor = "", "", 0.0
    ends = sorted((y(points[-1][1]), order, name) for order, (name, points) in enumerate(lines.items()))
    for end, order, name in ends:
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in lines[name])
        dash = DASHES[order % len(DASHES)]
        floor = max(end + 4, floor + 13)
        key = f'<path d="M{WIDTH - LABELS + 6} {floor - 4:.1f}h18" stroke="currentColor" stroke-dasharray="{dash}"/>'
        drawn += f'<polyline points="{path}" stroke-dasharray="{dash}"/>'
        names += key + _label(WIDTH - LABELS + 28, floor, "start", escape(name))
    marks = [low + share * (high - low) for share in (0, 0.5, 1)]
    digits = 2 if high - low < 10 else 0
    up = "".join(_label(MARGIN + 4, y(value) + 4, "end", number(value, digits)) for value in marks)
    across = "".join(_label(x(step), HEIGHT - 12, "middle", f"{step:g}") for step in (first, (first + last) / 2, last))
    grid = "".join(f'<path d="M{MARGIN + 8} {y(value):.1f}H{WIDTH - LABELS}"/>' for value in marks)
    return _figure(title, grid, drawn, across + up + names)


def _figure(title: str, grid: str, lines: str, words: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="100%" font-size="11" fill="currentColor">'
        f"<title>{escape(title)}</title>"
        f'<g stroke="currentColor" stroke-opacity="0.2" fill="none">{grid}</g>'
        f'<g stroke="currentColor" stroke-width="2" fill="none">{lines}</g>{words}</svg>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def _x(progress: float) -> float:
    return MARGIN + progress * (WIDTH - 2 * MARGIN)


def _y(share: float) -> float:
    return HEIGHT - MARGIN - share * (HEIGHT - MARGIN - 16)


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
