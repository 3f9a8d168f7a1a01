"""The gold standard: the same training from the start, without what is to be forgotten.

    theta = train(pretrained, retain)

Paper: none; the definition of exact unlearning.
Tags: benchmark, unlearning, forget.
Needs: a recipe with a stage before the last, or its own ``train``.
Differs: nothing known. It repeats every stage before the last from the pretrained model without the terms on roles
    that are made of ``forget``, where the stage trains on ``on`` besides, and else with ``on`` in their place. A role
    that is made of both (``all: [forget, retain]``) always gives way to ``on``, but no method stands twice. A role that
    holds rows of ``forget`` otherwise, a file of its own say, is refused. Epochs shrink with the data, a number of
    steps stays.
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
            dataclasses.replace(s, objective=self._without(s, recipe), train=self.train or s.train) for s in trunk
        )
        return Baseline("retrained", f"retrained on {self.on}", "pretrained", stages, unseen=self.forget)

    def _without(self, stage: Stage, recipe: Recipe) -> list[dict[str, Any]]:
        """The stage's terms; of several that would train on ``on`` by one method, one is left."""
        holding = [t for t in stage.objective if self._holds(t["on"], recipe)]
        kept = [t for t in stage.objective if t not in holding]
        if any(not isinstance(t["on"], str) for t in holding):
            raise ValueError(
                f"retrain cannot tell what the stage {stage.name!r} would be without {self.forget}, since one of its"
                " terms takes that role and others together; give it terms on single roles, or leave retrain out."
            )
        known = {_method(t) for t in kept if t["on"] == self.on}
        left = [t for t in holding if self.on in sources_of(t["on"], recipe.roles)] if known else holding
        first = {_method(t): t for t in reversed(left) if _method(t) not in known}
        return [{**t, "on": self.on} if t in holding else t for t in stage.objective if t in [*kept, *first.values()]]

    def _holds(self, named: str | list[str], recipe: Recipe) -> bool:
        """Whether a role or one of several holds rows of what is to be forgotten."""
        return any(self.forget in sources_of(r, recipe.roles) for r in ([named] if isinstance(named, str) else named))


def _method(term: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key for key in term if key not in ("on", "weight"))


METHOD = Retrain
