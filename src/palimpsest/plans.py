"""The models of a recipe in the order in which they are made, and the stages that lead to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.recipe import Recipe, Stage, plain
from palimpsest.recipe_parts import compile_baselines

__all__ = ["Plan", "about", "made_by", "model_folder", "plans", "stage_folders"]


@dataclass(frozen=True)
class Plan:
    """One model that will be audited: where it starts and the stages that lead to it; ``places`` are their paths.

    ``pretrained`` names the model at whose weights it starts, where those are not the recipe's own.
    """

    name: str
    kind: str
    label: str
    start: str
    stages: tuple[Stage, ...]
    places: tuple[str, ...]
    pretrained: str | None = None


def plans(recipe: Recipe, *, allow_imports: bool = False) -> list[Plan]:
    """All models of a recipe, in the order in which they are made."""
    if not recipe.stages:
        return [Plan("before", "before", recipe.model.pretrained, "pretrained", (), ())]
    trunk, final = tuple(recipe.stages[: recipe.start]), tuple(recipe.stages[recipe.start :])
    places = _places("stages", recipe.stages)
    found = [
        Plan("before", "before", "before", "pretrained", trunk, places[: recipe.start]),
        Plan("after", "after", _label(final), "before", final, places[recipe.start :]),
    ]
    for label, stages in recipe.variants.items():
        found.append(Plan(label, "variant", label, "before", tuple(stages), _places(f"variants.{label}", stages)))
    for b in compile_baselines(recipe, allow_imports=allow_imports):
        places = _places(f"baselines.{b.name}", b.stages)
        found.append(Plan(b.name, "baseline", b.label, b.start, b.stages, places, b.pretrained))
    return found


def about(recipe: Recipe) -> str:
    """A sentence on which stages the report compares, where several before the last change the model; else empty.

    One before it is what most recipes have: the stage that taught what the last one is to change.
    """
    early = [s for s in recipe.stages[: recipe.start] if s.trains == "model"]
    trunk = [s for s in early if s.objective or s.edit or s.intervention]
    if recipe.tasks or len(trunk) < 2:
        return ""
    taught = [str(term["on"]) for term in trunk[0].objective if recipe.audits.get(str(term["on"]))]
    role = [*taught, *(role for role, own in recipe.audits.items() if own), "..."][0]
    return (
        f"The report is about the last stage, {recipe.stages[-1].name}: its before is the model after"
        f" {', '.join(stage.name for stage in trunk)}. To hold the last model against the one before all of them, write"
        f" tasks: {{{trunk[0].name}: {role}}}; variants and baselines then start there too."
    )


def _label(stages: Sequence[Stage]) -> str:
    """A stage's name, or those of the first and the last of several."""
    return stages[0].name if len(stages) == 1 else f"{stages[0].name} to {stages[-1].name}"


def _places(home: str, stages: Sequence[Stage]) -> tuple[str, ...]:
    return tuple(f"{home}.{i}" for i in range(len(stages)))


def made_by(own: Sequence[Plan]) -> dict[str, Any]:
    """Plan -> what its model depends on, ``{"start": ..., "stages": [...]}`` and more, as plain data."""
    told = ("name", "kind", "label", "places")
    return {plan.name: {key: value for key, value in plain(plan).items() if key not in told} for plan in own}


def stage_folders(made: Mapping[str, Any]) -> dict[tuple[str, int], Path]:
    """(plan, number of its stage) -> its folder in a seed's: a stage depends on the weights at the start, on the stages
    before it and on nothing else, so plans that begin alike share what they begin with, in the folder of the first;
    ``made`` as from ``made_by``."""
    first: dict[str, Path] = {}
    found: dict[tuple[str, int], Path] = {}
    for name, own in made.items():
        chain = list(made["before"]["stages"]) if own["start"] == "before" else []
        root = {key: value for key, value in own.items() if key not in ("start", "stages")}
        for number, stage in enumerate(own["stages"]):
            chain.append(stage)
            folder = Path(name) / f"{number}-{stage.get('name', '')}"
            found[name, number] = first.setdefault(repr((root, chain)), folder)
    return found


def model_folder(recipe: Recipe, *, allow_imports: bool = False) -> Path | None:
    """Where a run folder holds the model that the recipe leads to, with the first seed; None where no folder says all
    of it: nothing was trained, or an intervention belongs to it."""
    own = plans(recipe, allow_imports=allow_imports)
    after = next((plan for plan in own if plan.name == "after"), None)
    if after is None or any(stage.intervention is not None for stage in recipe.stages):
        return None
    folders = stage_folders(made_by(own))
    changed = [n for n, s in enumerate(after.stages) if s.trains == "model" and (s.objective or s.edit)]
    return Path(f"seed-{recipe.seeds[0]}") / folders["after", changed[-1]] if changed else None
