"""Rows that stand in two roles of a recipe, where one of them was meant to be without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.audit import Row
from palimpsest.data import row_digest, row_key
from palimpsest.named_roles import looked_at
from palimpsest.recipe import Baseline, Recipe, RecipeError, Stage, short
from palimpsest.recipe_parts import compile_objective
from palimpsest.role_data import sources_of

__all__ = ["contradictions", "refuse_seen_rows", "refuse_shared_rows", "training_roles"]


def training_roles(stages: Sequence[Stage], roles: Mapping[str, Any]) -> set[str]:
    """The roles with data that some stage trains on, with unions and mixes taken apart."""
    used: set[str] = set()
    for stage in stages:
        for term in stage.objective:
            named = term.get("on", [])
            for role in [named] if isinstance(named, str) else named:
                used |= sources_of(role, roles)
    return used


def refuse_shared_rows(recipe: Recipe, rows: Mapping[str, Sequence[Row]]) -> None:
    """An audit on a role that is not trained on must not hold rows that are: it would measure memory, not ability."""
    stages = _stages(recipe)
    trained = training_roles(list(stages.values()), recipe.roles)
    seen = {row_key(row): role for role in trained for row in rows.get(role, ())}
    places = {role: f"{at}.watch.audits" for at, s in stages.items() if s.watch for role in s.watch.audits}
    places |= dict.fromkeys(recipe.audits, "audits")
    for role, place in places.items():
        spec = recipe.roles[role]
        if role in trained or isinstance(spec, list) or (isinstance(spec, dict) and "mix" in spec):
            continue
        shared = [row_key(row) for row in rows[role] if row_key(row) in seen]
        if shared:
            raise RecipeError(
                f"{place}.{role}: {len(shared)} of its rows, such as {short(shared[0])}, also stand in the training"
                f" role {seen[shared[0]]!r}; take them out of one of the two."
            )


def contradictions(recipe: Recipe, rows: Mapping[str, Sequence[Row]], *, allow_imports: bool = False) -> list[str]:
    """Sentences on stages of which one term is to forget rows that another one teaches or keeps; their content tells.

    A paired role, drawn afresh in every round, has no rows of its own.
    """
    found: list[str] = []
    for place, stage in _stages(recipe).items():
        total = compile_objective(stage, place, allow_imports=allow_imports)
        terms = total.terms if total is not None else ()
        forgetting = [(t, t.role[t.objective.forgets]) for t in terms if t.objective.forgets is not None]
        others = [t for t in terms if t.objective.forgets is None]
        for own, role in forgetting:
            hidden = {_content(row): row for row in rows.get(role, ())}
            for other, kept in ((term, name) for term in others for name in term.role):
                seen = list(dict.fromkeys(key for row in rows.get(kept, ()) if (key := _content(row)) in hidden))
                if seen:
                    found.append(
                        f"{place}.objective: {len(seen)} of the {len(hidden)} rows of {role!r}, such as"
                        f" {short(_shown(hidden[seen[0]]))}, are to be forgotten by {own.method} and stand in {kept!r}"
                        f" too, on which the stage has {other.method}; take them out of one of the two."
                    )
    return list(dict.fromkeys(found))


def _stages(recipe: Recipe) -> dict[str, Stage]:
    """The stages of the recipe and its variants by their places."""
    stages = {f"stages.{i}": stage for i, stage in enumerate(recipe.stages)}
    return stages | {f"variants.{v}.{i}": stage for v, own in recipe.variants.items() for i, stage in enumerate(own)}


TRAINED_ON = ("prompt", "completion", "text", "messages", "inputs", "label")
"""The columns that a model is trained on; others, an id say, may differ in two rows that teach the same."""


def refuse_seen_rows(baselines: Sequence[Baseline], recipe: Recipe, rows: Mapping[str, Sequence[Row]]) -> None:
    """A model retrained without some rows must not find them in another role, nor a mask of it; their content tells."""
    for baseline in (b for b in baselines if b.unseen in rows):
        hidden = {_content(row): row for row in rows[str(baseline.unseen)]}
        beside = {role for stage in baseline.stages for role in looked_at(stage, recipe.roles)}
        for role in sorted(training_roles(baseline.stages, recipe.roles) | beside):
            seen = list(dict.fromkeys(key for row in rows.get(role, ()) if (key := _content(row)) in hidden))
            if seen:
                raise RecipeError(
                    f"baselines: {short(baseline.label, quoted=False)} would still learn {len(seen)} of the"
                    f" {len(hidden)} rows of {baseline.unseen!r}, such as {short(_shown(hidden[seen[0]]))}, from the"
                    f" role {role!r}; write it as a list of roles, [{baseline.unseen}, …], or take the rows out of it."
                )


def _content(row: Row) -> str:
    return row_digest({k: row[k] for k in TRAINED_ON if k in row} or row)


def _shown(row: Row) -> str:
    """What a reader knows a row by."""
    return str(next((row[k] for k in ("id", "prompt", "text") if k in row), row))
