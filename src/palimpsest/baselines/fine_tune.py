"""Ordinary training on what is to be kept, in the hope that the rest fades.

    L = mean over retain tokens of -log p

Paper: none; the usual baseline of the unlearning literature ("fine-tuning").
Tags: benchmark, unlearning, continual-learning.
Needs: nothing.
Differs: trained as long and with the same settings as the last stage, on ``on`` alone.
See: ``gradient_ascent``, ``retrain``.
"""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.recipe import Baseline, Recipe, Stage

__all__ = ["METHOD", "FineTune"]


@dataclass(frozen=True)
class FineTune:
    """``on`` is the role that is trained on."""

    on: str = "retain"

    def __call__(self, recipe: Recipe) -> Baseline:
        """The run ``fine_tune``, from before the last stage."""
        train = recipe.stages[-1].train
        if train is None:
            raise ValueError(
                "the last stage does not train, so there are no settings to fine-tune with; write a variant instead."
            )
        if self.on not in recipe.roles:
            raise ValueError(f"fine_tune trains on the role {self.on!r}, which has no data; name a role with on.")
        stage = Stage("fine_tune", [{"on": self.on, "cross_entropy": {}}], train)
        return Baseline("fine_tune", f"fine-tuned on {self.on}", "before", (stage,))


METHOD = FineTune
