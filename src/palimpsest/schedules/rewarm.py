"""Raises the learning rate of a finished model again, in a straight line, and lets it fall along a cosine.

    s(p) = p / warmup                                                             p < warmup
         = floor + (1 - floor) (1 + cos(pi (p - warmup) / (1 - warmup))) / 2      from there on

For a stage that continues a model whose learning rate had already fallen: ``train.lr`` is the new peak, and sets how
much is learned against how much of the old is lost.  ``warmup: 0`` starts at the peak.  A new stage has a fresh
schedule and a fresh optimizer, so no old scheduler is resumed where a re-warming was meant.

Paper: Continual Pre-Training of Large Language Models: How to (re)warm your model? (Gupta et al., 2023),
    arXiv 2308.04014, section 3.
Code: written from the paper; numbers of its framework (GPT-NeoX) are in tests/golden.
Tags: retain, schedule, continual-learning, pre-training.
Needs: nothing.
Differs: the warm-up starts at 0, as in the formula; GPT-NeoX counts max(1, t), so that its first step is not lost. Past
    the end the multiplier stays at the floor, where GPT-NeoX's cosine turns up again.
See: ``cosine``, ``infinite`` (needs no re-warming), ``linear``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from palimpsest.schedules._phases import check_decay, check_shares

__all__ = ["METHOD", "Rewarm", "rewarm"]


def rewarm(step: float, steps: float, warmup_steps: float, maximum: float, minimum: float) -> float:
    """The rate itself at ``step``, as the paper writes it; past ``steps`` it stays at ``minimum``."""
    if step < warmup_steps:
        return maximum * step / warmup_steps
    place = min(1.0, (step - warmup_steps) / (steps - warmup_steps)) if steps > warmup_steps else 0.0
    return minimum + (maximum - minimum) * (1 + math.cos(math.pi * place)) / 2


@dataclass(frozen=True)
class Rewarm:
    """``warmup`` is a share of the stage, rounded to no whole step; ``floor`` is the multiplier at the end."""

    warmup: float = 0.01
    floor: float = 0.1

    def __post_init__(self) -> None:
        check_shares(warmup=self.warmup)
        check_decay(self.floor, "cosine")

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier."""
        return rewarm(progress, 1.0, self.warmup, 1.0, self.floor)


METHOD = Rewarm
