"""Half a cosine wave from 1 down to a floor.

    s(progress) = floor + (1 - floor) (1 + cos(pi * progress)) / 2

Paper: SGDR: Stochastic Gradient Descent with Warm Restarts (Loshchilov and Hutter, 2016), arXiv 1608.03983, equation 5.
Tags: optimize, schedule.
Needs: nothing.
Differs: one cycle, no restart.
See: ``ramp``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["METHOD", "Cosine"]


@dataclass(frozen=True)
class Cosine:
    """``floor`` in [0, 1] is the multiplier that is reached at the end."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor lies in [0, 1], not {self.floor}.")

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2


METHOD = Cosine
