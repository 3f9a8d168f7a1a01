"""A linear warm-up and then a straight line down to a floor.

    s(p) = p / warmup                                          p < warmup
         = 1 - (1 - floor) (p - warmup) / (1 - warmup)         from there on

Paper: Attention Is All You Need has the warm-up (Vaswani et al., 2017), arXiv 1706.03762; the line is older than it.
Code: written from the formula.
Tags: optimize, schedule.
Needs: nothing.
Differs: the line ends at the floor. GPT-NeoX lets it end at 0 and cuts it off at the floor.
See: ``ramp`` (a line without a warm-up, up or down), ``cosine``, ``rewarm``.
"""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.schedules._phases import Phase, at, check_decay, check_shares, decayed, warming

__all__ = ["METHOD", "Linear"]


@dataclass(frozen=True)
class Linear:
    """``warmup`` is a share of the stage; ``floor`` is the multiplier that is reached at its end."""

    warmup: float = 0.01
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_shares(warmup=self.warmup)
        check_decay(self.floor, "linear")

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        falling = Phase(1 - self.warmup, lambda place: decayed(place, self.floor, "linear"))
        return at(progress, (Phase(self.warmup, warming), *((falling,) if self.warmup < 1 else ())))


METHOD = Linear
