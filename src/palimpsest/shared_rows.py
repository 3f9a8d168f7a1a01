"""Rows that stand in two roles of a recipe, where one of them was meant to be without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.audit import Row
from palimpsest.data import row_digest, row_key
from palimpsest.named_roles import looked_at
from palimpsest.recipe import Baseline, Recipe, RecipeError, Stage, short
from palimpsest.role_data import sources_of

__all__ = ["refuse_seen_rows", "refuse_shared_rows"]


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
    stages = {f"stages.{i}": stage for i, stage in enumerate(recipe.stages)}
    stages |= {f"variants.{v}.{i}": stage for v, own in recipe.variants.items() for i, stage in enumerate(own)}
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
