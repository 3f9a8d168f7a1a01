"""One run with a short decay at each of several budgets, each followed by the full learning rate again.

    T_0 = 0 < T_1 < ... < T_K,   D_k = decay * T_k          (of: total)
                                 D_k = decay * (T_k - T_{k-1})   (of: cycle)
    in (T_{k-1}, T_k]:  [warm-up to 1]   1   until T_k - D_k,   then d(u) over D_k, as in ``wsd``
    at T_k:             the model is worth keeping; the rate jumps back to 1, weights and moments are carried on

The main branch goes on from the *decayed* weights: this is what sets it apart from WSD, which throws a decayed branch
away and goes on from where it branched off (``procedures.several_budgets`` does either and keeps the model of each
budget).

Paper: Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective (Wen et al., 2024),
    arXiv 2410.05192, section 5.
Code: written from the paper; numbers of its framework (Levanter) are in tests/golden.
Tags: optimize, schedule, pre-training.
Needs: nothing.
Differs: ``budgets`` count in any unit (steps, tokens, shares), since only their ratios matter; the last one is the
    whole stage. The places of steps in a decay are those of ``wsd``, without Levanter's repeated first step. Levanter
    takes ``decay`` as a share of the cycle; the paper's is a share of all steps so far, and is the default.
See: ``wsd``, ``infinite``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from palimpsest.schedules._phases import Phase, Shape, at, check_decay, check_shares, decayed, warming

__all__ = ["METHOD", "WSDS"]


@dataclass(frozen=True)
class WSDS:
    """``budgets`` rise, in steps or any other unit; ``warmup`` is a share of the whole stage, ``rewarmup`` (from the
    floor back to the peak) of each later cycle, ``decay`` of all so far or of the cycle."""

    budgets: tuple[float, ...] = (0.25, 0.5, 1.0)
    warmup: float = 0.01
    decay: float = 0.1
    of: Literal["total", "cycle"] = "total"
    floor: float = 0.1
    shape: Shape = "inverse"
    rewarmup: float = 0.0

    def __post_init__(self) -> None:
        check_shares(warmup=self.warmup)
        check_shares(rewarmup=self.rewarmup)
        check_shares(decay=self.decay)
        check_decay(self.floor, self.shape)
        if self.of not in ("total", "cycle"):
            raise ValueError(f"of is total or cycle, not {self.of!r}; choose what decay is a share of.")
        if not self.budgets or any(b <= a for a, b in pairwise((0.0, *self.budgets))):
            raise ValueError(f"budgets rise from above 0, each once, not {list(self.budgets)}; put them in order.")
        for number, (start, rise, fall, end) in enumerate(self._cycles(), 1):
            if rise + fall > (end - start) * (1 + 1e-9):
                raise ValueError(
                    f"The decay before budget {number} ({fall:g}) and the warm-up ({rise:g}) are longer than the"
                    f" {end - start:g} since the budget before it; lower decay, or space the budgets out."
                )

    def _cycles(self) -> Iterator[tuple[float, float, float, float]]:
        """(start, length of the warm-up, length of the decay, end) of every cycle, in the unit of ``budgets``."""
        for start, end in pairwise((0.0, *self.budgets)):
            rise = self.rewarmup * (end - start) if start else self.warmup * self.budgets[-1]
            yield start, rise, self.decay * (end if self.of == "total" else end - start), end

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        last = self.budgets[-1]
        # The jump must come with exactly the step after the budget, so the shares are divided as a loop divides them.
        start, rise, fall, end = next(c for c in self._cycles() if progress < c[-1] / last or c[-1] == last)
        bottom = self.floor if start else 0.0
        up = Phase(rise, lambda u: bottom + (1 - bottom) * warming(u))
        stable = Phase(end - start - rise - fall, lambda u: 1.0)
        down = Phase(fall, lambda u: decayed(u, self.floor, self.shape))
        return at(max(0.0, progress * last - start), (up, stable, *((down,) if fall else ())))


METHOD = WSDS
