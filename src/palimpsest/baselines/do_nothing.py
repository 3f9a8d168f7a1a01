"""The model as it was before the last stage: what a method must beat.

    theta = theta_before

Paper: none.
Tags: benchmark, unlearning, continual-learning.
Needs: nothing.
Differs: nothing known.
See: ``retrain`` (the other end of the scale).
"""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.recipe import Baseline, Recipe

__all__ = ["METHOD", "DoNothing"]


@dataclass(frozen=True)
class DoNothing:
    """No stage at all."""

    def __call__(self, recipe: Recipe) -> Baseline:
        """The run ``do_nothing``."""
        return Baseline("do_nothing", "do nothing", "before", ())


METHOD = DoNothing
