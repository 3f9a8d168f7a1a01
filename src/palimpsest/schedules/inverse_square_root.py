"""A linear warm-up and then a fall with the square root of the steps, for runs without a planned end.

    s(p) = p / warmup                                             p < warmup
         = sqrt(timescale / (p - warmup + timescale))             from there on; timescale = warmup where not given

Paper: Attention Is All You Need (Vaswani et al., 2017), arXiv 1706.03762, equation 3.
Code: written from the paper.
Tags: optimize, schedule.
Needs: nothing.
Differs: the peak is ``train.lr`` and not a function of the model's width.
See: ``infinite`` (a fall of this kind to a plateau), ``cosine``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from palimpsest.schedules._phases import check_shares

__all__ = ["METHOD", "InverseSquareRoot"]


@dataclass(frozen=True)
class InverseSquareRoot:
    """``warmup`` is a share of the stage; after ``timescale``, another share, 1 / sqrt(2) of the peak is left."""

    warmup: float = 0.01
    timescale: float | None = None

    def __post_init__(self) -> None:
        check_shares(warmup=self.warmup)
        if self.timescale is None and self.warmup == 0:
            raise ValueError("Without a warm-up the fall has no timescale; give timescale, such as 0.01.")
        if self.timescale is not None and not (self.timescale > 0 and math.isfinite(self.timescale)):
            raise ValueError(f"timescale is a finite share of the stage above 0, not {self.timescale}.")

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        if progress < self.warmup:
            return progress / self.warmup
        timescale = self.warmup if self.timescale is None else self.timescale
        return math.sqrt(timescale / (progress - self.warmup + timescale))


METHOD = InverseSquareRoot
