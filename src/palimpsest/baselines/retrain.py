"""The gold standard: the same training from the start, without what is to be forgotten.

    theta = train(theta_start, retain)

Paper: none; the definition of exact unlearning.
Tags: benchmark, unlearning, forget.
Needs: a recipe with a stage before the last that trains the model, or its own ``train``; and a start that has not seen
    the rows of ``forget``: the recipe's ``model``, or ``pretrained`` where that is a model that was taught already.
Differs: nothing known. It repeats every stage before the last from that start without the terms on roles
    that are made of ``forget``, where the stage trains on ``on`` besides, and else with ``on`` in their place. A role
    that is made of both (``all: [forget, retain]``) always gives way to ``on``, but no method stands twice; so it does
    in a setting that names it, such as EWC's ``of`` or the role of a mask. A setting that names ``forget`` itself is
    refused, and so is a role that holds its rows otherwise, in a file of its own say. What a stage selects of such a
    role it selects of ``on``, unless a term trains on that besides. Epochs shrink with the data, a number of steps
    stays.
See: ``do_nothing``; audits that are ``nearer:retrained``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.named_roles import FAMILIES, named, renamed
from palimpsest.recipe import Baseline, Recipe, Spec, Stage
from palimpsest.role_data import sources_of

__all__ = ["METHOD", "Retrain"]


@dataclass(frozen=True)
class Retrain:
    """``on`` is what may be known; ``forget`` must not be seen; ``train`` replaces the stages' own settings.

    ``pretrained`` is the model to start from where it is not the recipe's, of the same architecture: a folder, a name
    of the zoo, or a hub id.
    """

    on: str = "retain"
    forget: str = "forget"
    train: dict[str, Any] | None = None
    pretrained: str | None = None

    def __call__(self, recipe: Recipe) -> Baseline:
        """The run ``retrained``, from the pretrained model."""
        if self.on not in recipe.roles:
            raise ValueError(f"retrain trains on the role {self.on!r}, which has no data; name a role with on.")
        trunk = recipe.stages[: recipe.start]
        if not any(_teaches(stage) for stage in trunk):
            if self.train is None:
                raise ValueError(self._nothing_to_repeat(recipe))
            trunk = [Stage("retrain", [{"on": self.on, "cross_entropy": {}}], self.train)]
        stages = tuple(self._without(stage, recipe) for stage in trunk)
        label = f"retrained on {self.on}" + ("" if self.pretrained is None else f", from {Path(self.pretrained).name}")
        return Baseline(
            "retrained", label, "pretrained", stages, self.forget, self.pretrained, self._caution(trunk, recipe)
        )

    def _nothing_to_repeat(self, recipe: Recipe) -> str:
        """What to add where no stage before the last trains the model."""
        why = "this recipe has only one" if len(recipe.stages) == 1 else "none of these trains the model"
        why = "with tasks all stages from the first of them on count as the last" if recipe.tasks else why
        start = "" if self.pretrained else " pretrained, the model that yours was made from, and"
        return (
            f"retrain repeats the stages before the last, and {why}; give retrain{start} its own train, or add the"
            " stage that taught the model."
        )

    def _caution(self, trunk: Sequence[Stage], recipe: Recipe) -> str:
        """A sentence where what is to be forgotten was learned in no stage, so that it may be known at the start."""
        taught = any(_teaches(stage) and self._holds(t["on"], recipe) for stage in trunk for t in stage.objective)
        own = self.pretrained is None or Path(self.pretrained) == Path(recipe.model.pretrained)
        if taught or not own or self.forget not in recipe.roles:
            return ""
        return (
            f"retrain starts from {recipe.model.pretrained}; it is a reference only if that model has not seen the rows"
            f" of {self.forget}, and otherwise needs the model from before it saw them, as its pretrained."
        )

    def _without(self, stage: Stage, recipe: Recipe) -> Stage:
        """The stage as it would have been without the rows to be forgotten."""
        left = self._terms(stage, recipe)
        objective = [self._term(term, stage, recipe) for term in left]
        parts: dict[str, Any] = {
            key: self._part(spec, family, f"its {key}", stage, recipe)
            for key, family in FAMILIES.items()
            if (spec := getattr(stage, key)) is not None
        }
        select = self._selected(left, stage, recipe)
        return dataclasses.replace(stage, objective=objective, train=self.train or stage.train, select=select, **parts)

    def _term(self, term: dict[str, Any], stage: Stage, recipe: Recipe) -> dict[str, Any]:
        """A term that is left, on what is left of its role."""
        (method,) = _method(term)
        old: Spec = {method: term[method]}
        new = self._part(old, "objectives", f"its {method}", stage, recipe)
        term = {**term, "on": self.on} if self._holds(term["on"], recipe) else term
        if new == old or not isinstance(new, dict):
            return term
        return {**{key: value for key, value in term.items() if key != method}, **new}

    def _part(self, spec: Spec, family: str, what: str, stage: Stage, recipe: Recipe) -> Spec:
        """A method whose settings name ``on`` where they named a role that is made of it and of ``forget``."""
        holding = {role for role in named(spec, family, recipe.roles) if self._holds(role, recipe)}
        for role in sorted(holding):
            if self.on not in sources_of(role, recipe.roles):
                raise ValueError(
                    f"retrain cannot tell what the stage {stage.name!r} would be without {self.forget}, since {what}"
                    f" looks at the role {role!r}; name a role there that holds {self.on} too, or leave retrain out."
                )
        return renamed(spec, family, dict.fromkeys(holding, self.on)) if holding else spec

    def _selected(self, left: list[dict[str, Any]], stage: Stage, recipe: Recipe) -> dict[str, Spec]:
        """What is selected of each role; the selection of a role that gives way to ``on`` goes over to it."""
        found = {role: spec for role, spec in stage.select.items() if not self._holds(role, recipe)}
        replaced = [term["on"] for term in left if self._holds(term["on"], recipe)]
        moved = [stage.select[role] for role in replaced if role in stage.select]
        own = any(self.on in _roles(term["on"]) for term in left)
        return {**found, self.on: moved[0]} if moved and not own else found

    def _terms(self, stage: Stage, recipe: Recipe) -> list[dict[str, Any]]:
        """The terms that are left; of several that would train on ``on`` by one method, one is."""
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
        return [t for t in stage.objective if t in [*kept, *first.values()]]

    def _holds(self, on: str | list[str], recipe: Recipe) -> bool:
        """Whether a role or one of several holds rows of what is to be forgotten."""
        return any(self.forget in sources_of(role, recipe.roles) for role in _roles(on))


def _teaches(stage: Stage) -> bool:
    """Whether the model, and not a companion, is another one after the stage."""
    return stage.trains == "model" and bool(stage.objective or stage.edit)


def _roles(named: str | list[str]) -> list[str]:
    return [named] if isinstance(named, str) else named


def _method(term: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key for key in term if key not in ("on", "weight"))


METHOD = Retrain
