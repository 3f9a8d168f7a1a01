"""What a stage of a recipe measures on the way: audits of roles, as a watch of the plain loop.

    watch: {every: 10, audits: {first: [accuracy], second: [accuracy]}}

The curves go into the report and into ``watch.json`` of the stage's folder, with ``every`` beside them; the single
items of each measurement go into files of ``watched`` there.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from palimpsest.audit import Scores
from palimpsest.checkpoint import write_json
from palimpsest.loop import Curves, Result
from palimpsest.own_parts import checked_scores, failed
from palimpsest.processes import agreed, shared
from palimpsest.recipe import RecipeError, WatchSpec
from palimpsest.recipe_parts import compile_audits_of
from palimpsest.role_data import audit_names
from palimpsest.roles import Roles
from palimpsest.watch import Watch, Watched

__all__ = ["kept", "watch_of", "watched_in"]

FILE, ITEMS = "watch.json", "watched"


def watch_of(
    spec: WatchSpec, place: str, roles: Roles, seed: int, folder: Path, *, allow_imports: bool = False
) -> Watch:
    """Every audit on all rows of its role, as one figure each; ``place`` is the recipe path of ``spec``.

    The items are kept in ``folder``, that of the stage.
    """
    audits = compile_audits_of(spec.audits, f"{place}.audits", allow_imports=allow_imports)

    def measure(model: nn.Module) -> dict[str, Scores]:
        subject, found = shared(roles.adapter.subject(model)), {}
        for role, own in audits.items():
            for name, audit in zip(audit_names(spec.audits[role]), own, strict=True):
                torch.manual_seed(seed)  # as at the end of the run
                try:
                    scores = audit(subject, roles.rows, role)
                    found[f"{role}/{name}"] = checked_scores(scores, audit, roles.rows[role], role)
                except Exception as error:
                    told = failed(error, f"{place}.audits.{role}.{name}")
                    if told is None and not isinstance(error, ValueError | LookupError):
                        raise
                    raise told or RecipeError(f"{place}.audits.{role}.{name}: {error}") from error
        return found

    return Watch(spec.every, measure, folder / ITEMS)


def watched_in(folder: Path) -> Watched | None:
    """What a finished stage measured on the way, None where it did not."""
    file = folder / FILE
    return Watched.read(json.loads(file.read_text(encoding="utf-8")), folder / ITEMS) if file.exists() else None


def kept(result: Result, folder: Path) -> Curves:
    """Writes what was measured on the way, and returns it as curves whose names say how often that was."""
    if result.watched is None:
        return {}
    plain = result.watched.plain()
    agreed(lambda: write_json(folder / FILE, plain))
    every = result.watched.every
    often = "every step" if every == 1 else f"every {every} steps"
    return {f"{name} ({often})": points for name, points in result.watched.curves.items()}
