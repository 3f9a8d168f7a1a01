"""The curve of a schedule as a picture inside its page: an SVG drawn when the site is built, without any script."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

__all__ = ["curve"]

WIDTH, HEIGHT, MARGIN = 640, 220, 34
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
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="100%" font-size="11" fill="currentColor">'
        f"<title>{escape(title)}</title>"
        f'<g stroke="currentColor" stroke-opacity="0.2" fill="none">{grid}</g>'
        f'<g stroke="currentColor" stroke-width="2" fill="none">{lines}</g>{across}{up}</svg>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def _x(progress: float) -> float:
    return MARGIN + progress * (WIDTH - 2 * MARGIN)


def _y(share: float) -> float:
    return HEIGHT - MARGIN - share * (HEIGHT - MARGIN - 16)


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
