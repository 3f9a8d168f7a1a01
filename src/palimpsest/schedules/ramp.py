"""A straight line from one multiplier to another.

    s(progress) = start + (end - start) * progress

Paper: none.
Tags: optimize, schedule.
Needs: nothing.
Differs: nothing known.
See: ``cosine``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METHOD", "Ramp"]


@dataclass(frozen=True)
class Ramp:
    """From ``start`` at the first step towards ``end`` after the last; Ramp(1, 0) is linear decay."""

    start: float = 1.0
    end: float = 0.0

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        return self.start + (self.end - self.start) * progress


METHOD = Ramp
