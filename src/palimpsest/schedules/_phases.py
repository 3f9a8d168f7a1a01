"""What schedules with phases share: phases by their lengths, and the shapes of a decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Phase", "Shape", "at", "check_decay", "check_shares", "decayed", "warming"]

Shape = Literal["linear", "inverse", "cosine", "one_minus_sqrt", "exponential"]


@dataclass(frozen=True)
class Phase:
    """A ``length``, in the unit of the phases beside it, and the multiplier at each place in [0, 1] of it."""

    length: float
    curve: Callable[[float], float]


def at(place: float, phases: Sequence[Phase]) -> float:
    """The multiplier at ``place``, counted from the start of the first phase; past the end, the last one's last."""
    start = 0.0
    for phase in phases:
        if place < start + phase.length:
            inside = (place - start) / phase.length
            return phase.curve(inside if inside > 1e-9 else 0.0)  # a sum of lengths is off by some 1e-16
        start += phase.length
    return phases[-1].curve(1.0)


def warming(place: float) -> float:
    """A straight line from 0 to 1."""
    return place


def decayed(place: float, floor: float, shape: Shape) -> float:
    """From 1 at place 0 to ``floor`` at place 1; ``inverse`` is a straight line in 1 / multiplier."""
    if shape == "inverse":
        return 1 / (place / floor + 1 - place)
    if shape == "exponential":
        return float(floor**place)
    if shape == "cosine":
        height = (1 + math.cos(math.pi * place)) / 2
    elif shape == "one_minus_sqrt":
        height = 1 - math.sqrt(place)
    else:
        height = 1 - place
    return floor + (1 - floor) * height


def check_shares(**shares: float) -> None:
    """Every length is a share of the stage, and together they are at most the stage."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a share of the stage in [0, 1], not {value}.")
    if sum(shares.values()) > 1 + 1e-9:
        together = " + ".join(f"{name} {value:g}" for name, value in shares.items())
        raise ValueError(f"The phases are longer than the stage ({together}); shorten them to at most 1 in all.")


def check_decay(floor: float, shape: Shape) -> None:
    """Whether ``decayed`` is defined."""
    if not 0 <= floor <= 1:
        raise ValueError(f"floor lies in [0, 1], not {floor}.")
    if shape not in ("linear", "inverse", "cosine", "one_minus_sqrt", "exponential"):
        raise ValueError(
            f"shape is linear, inverse, cosine, one_minus_sqrt or exponential, not {shape!r}; choose one of them."
        )
    if floor == 0 and shape in ("inverse", "exponential"):
        raise ValueError(f"A decay of the shape {shape} never reaches 0; give floor a value above 0, or another shape.")
