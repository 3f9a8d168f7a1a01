"""Climbs the loss of what should be forgotten, with or without a term that keeps the rest.

    L = -mean over forget tokens of (-log p)  +  retain_weight * mean over retain tokens of (-log p)

Paper: Knowledge Unlearning for Mitigating Privacy Risks in Language Models (Jang et al., 2022), arXiv 2210.01504;
    with the retain term it is the gradient difference of TOFU (Maini et al., 2024), arXiv 2401.06121.
Tags: benchmark, unlearning, forget.
Needs: nothing.
Differs: trained as long and with the same settings as the last stage.
See: the objective ``gradient_ascent``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from palimpsest.recipe import Baseline, Recipe, Stage

__all__ = ["METHOD", "GradientAscentBaseline"]


@dataclass(frozen=True)
class GradientAscentBaseline:
    """``on`` is climbed; ``retain_weight`` above 0 adds cross-entropy on ``retain``."""

    on: str = "forget"
    retain: str = "retain"
    retain_weight: float = 0.0

    def __call__(self, recipe: Recipe) -> Baseline:
        """The run ``gradient_ascent``, from before the last stage."""
        train = recipe.stages[-1].train
        if train is None:
            raise ValueError(
                "the last stage does not train, so there are no settings for gradient ascent; write a variant instead."
            )
        terms: list[dict[str, Any]] = [{"on": self.on, "gradient_ascent": {}}]
        if self.retain_weight > 0:
            terms.append({"on": self.retain, "cross_entropy": {}, "weight": self.retain_weight})
        missing = [t["on"] for t in terms if t["on"] not in recipe.roles]
        if missing:
            raise ValueError(
                f"gradient_ascent uses the role {missing[0]!r}, which has no data; name a role with on or retain."
            )
        label = "gradient ascent" if len(terms) == 1 else "gradient ascent + retain"
        return Baseline("gradient_ascent", label, "before", (Stage("gradient_ascent", terms, train),))


METHOD = GradientAscentBaseline
