"""Warm-up, a cooldown to a plateau that may last as long as data come, and an annealing before the model is used.

    s(p) = p / warmup                                            warm-up, to 1
         = plateau + (1 - plateau) c(u)                          cooldown, u from 0 to 1
         = plateau                                               for the rest of the stage
         = plateau (floor / plateau)^u                           annealing, the last share of the stage

    c(u) = (1 + cos(pi u)) / 2                                   cosine
         = 1 - u                                                 linear
         = 1 - h(u) / h(1),  h(u) = 1 / sqrt(1 + a u) - 1        inverse_square_root

New data enter on the plateau without any re-warming: the stage before ends with ``annealing: 0``, and the stage of the
new data has ``warmup: 0, cooldown: 0`` and, if it is the last, an annealing.  Only annealed models are to be compared
with models of a schedule that falls.

Paper: Simple and Scalable Strategies to Continually Pre-train Large Language Models (Ibrahim et al., 2024),
    arXiv 2403.08763, section 7.
Code: written from the paper.
Tags: retain, optimize, schedule, continual-learning, pre-training.
Needs: nothing.
Differs: phases are given as lengths, as shares of the stage, so that they can be in no wrong order; the plateau takes
    what the others leave. A recipe's stage that goes on from an annealed model on the plateau is named in the report.
See: ``rewarm``, ``wsd``, ``wsd_s``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from palimpsest.schedules._phases import Phase, at, check_shares, decayed, warming

__all__ = ["METHOD", "Infinite", "inverse_square_root_cooldown"]


def inverse_square_root_cooldown(place: float, timescale: float) -> float:
    """From 1 at place 0 to 0 at place 1, the steeper the larger ``timescale``; near 0 it is a straight line."""

    def fallen(u: float) -> float:  # 1 - 1 / sqrt(1 + a u), without the cancellation at small a u
        return -math.expm1(-0.5 * math.log1p(timescale * u))

    return 1 - fallen(place) / fallen(1.0)


@dataclass(frozen=True)
class Infinite:
    """``warmup``, ``cooldown`` and ``annealing`` are shares of the stage; ``plateau`` and ``floor`` are multipliers."""

    warmup: float = 0.01
    cooldown: float = 0.15
    annealing: float = 0.2
    plateau: float = 0.55
    floor: float = 0.1
    shape: Literal["cosine", "linear", "inverse_square_root"] = "cosine"
    timescale: float = 10.0

    def __post_init__(self) -> None:
        check_shares(warmup=self.warmup, cooldown=self.cooldown, annealing=self.annealing)
        if not 0 < self.floor <= self.plateau <= 1:
            raise ValueError(
                f"The rate falls from 1 to the plateau to the floor, all above 0; plateau {self.plateau} and floor"
                f" {self.floor} are not in this order."
            )
        if self.shape not in ("cosine", "linear", "inverse_square_root"):
            raise ValueError(f"shape is cosine, linear or inverse_square_root, not {self.shape!r}; choose one of them.")
        if not (self.timescale > 0 and math.isfinite(self.timescale)):
            raise ValueError(f"timescale is a finite number above 0, not {self.timescale}.")

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        rest = max(0.0, 1 - self.warmup - self.cooldown - self.annealing)
        phases = [Phase(self.warmup, warming), Phase(self.cooldown, self._cooled), Phase(rest, lambda u: self.plateau)]
        if self.annealing:
            phases.append(Phase(self.annealing, lambda u: self.plateau * (self.floor / self.plateau) ** u))
        return at(progress, phases)

    def _cooled(self, place: float) -> float:
        """The cooldown, from 1 to the plateau."""
        if self.shape == "inverse_square_root":
            return self.plateau + (1 - self.plateau) * inverse_square_root_cooldown(place, self.timescale)
        return decayed(place, self.plateau, "cosine" if self.shape == "cosine" else "linear")


METHOD = Infinite
