"""Warm-up, a long constant phase, and a short decay at the end.

    s(p) = p / warmup                                    p < warmup
         = 1                                             p < 1 - decay
         = d((p - (1 - decay)) / decay)                  from there on

    d(u) = 1 / (u / floor + 1 - u)                       inverse
         = floor + (1 - floor) h(u),  h = 1 - u, (1 + cos(pi u)) / 2, 1 - sqrt(u)
         = floor^u                                       exponential

What comes before the decay does not depend on how long the run is, so a run can be made longer from any point before
it.  ``decay: 0`` never decays.

Paper: Understanding Warmup-Stable-Decay Learning Rates (Wen et al., 2024), arXiv 2410.05192; the schedule is MiniCPM's
    (Hu et al., 2024), arXiv 2404.06395.
Code: written from the paper.
Tags: optimize, schedule, pre-training.
Needs: nothing.
Differs: the step with number j of a decay of D steps has u = j / D in every shape, so the first one is still at the
    peak and the floor itself is what the step after the last would have. Levanter uses max(j, 1) / D for the inverse
    shape: the same from the second step on.
See: ``wsd_s``, ``infinite``, ``cosine``.
"""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.schedules._phases import Phase, Shape, at, check_decay, check_shares, decayed, warming

__all__ = ["METHOD", "WSD"]


@dataclass(frozen=True)
class WSD:
    """``warmup`` and ``decay`` are shares of the stage; ``floor`` is the multiplier that the decay falls to."""

    warmup: float = 0.01
    decay: float = 0.1
    floor: float = 0.1
    shape: Shape = "inverse"

    def __post_init__(self) -> None:
        check_shares(warmup=self.warmup, decay=self.decay)
        check_decay(self.floor, self.shape)

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        stable = Phase(1 - self.warmup - self.decay, lambda place: 1.0)
        falling = Phase(self.decay, lambda place: decayed(place, self.floor, self.shape))
        return at(progress, (Phase(self.warmup, warming), stable, *((falling,) if self.decay else ())))


METHOD = WSD
