"""The gold standard: the same training from the start, without what is to be forgotten.

    theta = train(pretrained, retain)

Paper: none; the definition of exact unlearning.
Tags: benchmark, unlearning, forget.
Needs: a recipe with a stage before the last, or its own ``train``.
Differs: nothing known. It repeats every stage before the last from the pretrained model, with the role ``on`` in
    place of each role that is made of ``forget`` (``all: [forget, retain]``); a role that holds rows of it otherwise,
    a file of its own say, is refused. Epochs shrink with the data, a number of steps stays.
See: ``do_nothing``; audits that are ``nearer:retrained``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from palimpsest.recipe import Baseline, Recipe, Stage
from palimpsest.role_data import sources_of

__all__ = ["METHOD", "Retrain"]


@dataclass(frozen=True)
class Retrain:
    """``on`` is what may be known; ``forget`` must not be seen; ``train`` replaces the stages' own settings."""

    on: str = "retain"
    forget: str = "forget"
    train: dict[str, Any] | None = None

    def __call__(self, recipe: Recipe) -> Baseline:
        """The run ``retrained``, from the pretrained model."""
        if self.on not in recipe.roles:
            raise ValueError(f"retrain trains on the role {self.on!r}, which has no data; name a role with on.")
        trunk = recipe.stages[: recipe.start]
        if not trunk:
            if self.train is None:
                raise ValueError(
                    "retrain repeats the stages before the last, and this recipe has only one; add the stage that"
                    " taught the model, or give retrain its own train."
                )
            trunk = [Stage("retrain", [{"on": self.on, "cross_entropy": {}}], self.train)]
        stages = tuple(
            dataclasses.replace(
                s, objective=[self._without(t, recipe) for t in s.objective], train=self.train or s.train
            )
            for s in trunk
        )
        return Baseline("retrained", f"retrained on {self.on}", "pretrained", stages, unseen=self.forget)

    def _without(self, term: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
        named = term["on"]
        holds = isinstance(named, str) and self.forget in sources_of(named, recipe.roles)
        return {**term, "on": self.on} if holds else term


METHOD = Retrain
