"""From the names in a recipe to methods, and the check that every one of them can be built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palimpsest import names
from palimpsest.loop import Training
from palimpsest.objective import WEIGHTS, Term, Total, on
from palimpsest.recipe import Baseline, Recipe, RecipeError, Spec, Stage, keys, short, suggest, validated

__all__ = [
    "check",
    "compile_audits",
    "compile_baselines",
    "compile_combine",
    "compile_objective",
    "compile_part",
    "compile_training",
]


def compile_objective(stage: Stage, place: str, *, allow_imports: bool = False) -> Total | None:
    """The stage's objective, or None where it has none."""
    terms = [_term(spec, f"{place}.objective.{i}", allow_imports) for i, spec in enumerate(stage.objective)]
    return Total(tuple(terms)) if terms else None


def _term(spec: Mapping[str, Any], place: str, allow_imports: bool) -> Term:
    methods = [k for k in spec if k not in ("on", "weight")]
    if "on" not in spec:
        raise RecipeError(f"{place}: a term needs `on:`, the role it looks at.")
    if len(methods) != 1:
        raise RecipeError(
            f"{place}: a term names one method, as {{on: role, method: {{…}}}}; it names {len(methods)}:"
            f" {sorted(map(str, methods))}."
        )
    roles = spec["on"]
    if not (isinstance(roles, str) or (isinstance(roles, list) and roles and all(isinstance(r, str) for r in roles))):
        raise RecipeError(f"{place}.on: name a role or a list of roles, not {short(roles)}.")
    method = _built({methods[0]: spec[methods[0]]}, "objectives", place, allow_imports)
    term = on(roles if isinstance(roles, str) else tuple(roles), method)
    arity = method.arity
    if len(term.role) != arity:
        raise RecipeError(
            f"{place}.on: {methods[0]} looks at {arity} role{'s' if arity > 1 else ''} together, not at"
            f" {len(term.role)}."
        )
    weight = spec.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float, str, dict)):
        raise RecipeError(f"{place}.weight: give a number or a schedule, not {short(weight)}.")
    return term * (
        weight if isinstance(weight, (int, float)) else _built(weight, "schedules", f"{place}.weight", allow_imports)
    )


def compile_training(stage: Stage, place: str, *, allow_imports: bool = False) -> Training:
    """The stage's training settings with schedule and optimizer built."""
    raw = dict(stage.train or {})
    unknown = [k for k in raw if k not in keys(Training)]
    if unknown:
        raise RecipeError(
            f"{place}.train.{unknown[0]}: there is no such key; {suggest(str(unknown[0]), keys(Training))}."
        )
    if raw.get("schedule") is not None:
        raw["schedule"] = _built(raw["schedule"], "schedules", f"{place}.train.schedule", allow_imports)
    optimizer = raw.get("optimizer", "adamw")
    if optimizer not in ("adamw", "sgd"):
        raw["optimizer"] = _built(optimizer, "optim", f"{place}.train.optimizer", allow_imports)
    training: Training = validated(Training, raw, f"{place}.train")
    return training


def _built(spec: Any, family: str, place: str, allow_imports: bool) -> Any:
    try:
        return names.build(spec, family, place=place, allow_imports=allow_imports)
    except (ValueError, LookupError) as error:
        raise RecipeError(str(error)) from None


def compile_part(spec: Spec | None, family: str, place: str, *, allow_imports: bool = False) -> Any:
    """Any other named part of a stage, or None."""
    return None if spec is None else _built(spec, family, place, allow_imports)


def compile_combine(spec: Spec | None, place: str) -> Any:
    """``sum`` or ``one_sided_projection``."""
    from palimpsest.combine import OneSidedProjection, Sum

    known = {"sum": Sum, "one_sided_projection": OneSidedProjection}
    name, fields = (spec, {}) if isinstance(spec, str) else next(iter((spec or {"sum": {}}).items()))
    if name not in known:
        raise RecipeError(f"{place}.combine: there is no combination {name!r}; {suggest(str(name), list(known))}.")
    cls = known[name]
    unknown = [k for k in fields or {} if k not in keys(cls)]
    if unknown:
        raise RecipeError(
            f"{place}.combine.{name}.{unknown[0]}: there is no such key; {suggest(str(unknown[0]), keys(cls))}."
        )
    return validated(cls, fields or {}, f"{place}.combine.{name}")


def compile_audits(recipe: Recipe, *, allow_imports: bool = False) -> dict[str, list[Any]]:
    """Role -> audits, built."""
    return {
        role: [_built(spec, "audits", f"audits.{role}.{i}", allow_imports) for i, spec in enumerate(specs)]
        for role, specs in recipe.audits.items()
    }


def compile_baselines(recipe: Recipe, *, allow_imports: bool = False) -> list[Baseline]:
    """The baselines' stages."""
    found = []
    for i, spec in enumerate(recipe.baselines):
        maker = _built(spec, "baselines", f"baselines.{i}", allow_imports)
        try:
            found.append(maker(recipe))
        except ValueError as error:
            raise RecipeError(f"baselines.{i}: {error}") from None
    return found


def check(recipe: Recipe, *, allow_imports: bool = False, audit_only: bool = False) -> None:
    """Builds every part once, so that a recipe that starts does not fail on a name an hour later."""
    from palimpsest.role_data import check_roles

    if not recipe.stages and not audit_only:
        raise RecipeError("stages: a recipe needs at least one stage, with an objective and train.")
    if not recipe.seeds or len(set(recipe.seeds)) != len(recipe.seeds):
        raise RecipeError("seeds: give at least one number, each once.")
    if any(seed < 0 for seed in recipe.seeds):
        raise RecipeError("seeds: give numbers of at least 0.")
    places = [(s, f"stages.{i}") for i, s in enumerate(recipe.stages)]
    places += [(s, f"variants.{label}.{i}") for label, stages in recipe.variants.items() for i, s in enumerate(stages)]
    for stage, place in places:
        total = compile_objective(stage, place, allow_imports=allow_imports)
        if total is not None:
            compile_training(stage, place, allow_imports=allow_imports)
            unknown = [r for r in total.roles if r not in recipe.roles and r != WEIGHTS]
            if unknown:
                raise RecipeError(
                    f"{place}.objective: the role {unknown[0]!r} has no data;"
                    f" {suggest(unknown[0], list(recipe.roles))}."
                )
        elif stage.train is not None:
            raise RecipeError(f"{place}: it has train but no objective; add one, or remove train.")
        elif stage.intervention is None and stage.edit is None:
            raise RecipeError(f"{place}: it does nothing; give it an objective, an edit or an intervention.")
        if (stage.trains != "model") != (stage.starts is not None):
            raise RecipeError(f"{place}: a companion needs both trains (its name) and starts (what it is made from).")
        for family in ("edit", "mask", "intervention"):
            compile_part(getattr(stage, family), f"{family}s", f"{place}.{family}", allow_imports=allow_imports)
        compile_part(stage.starts, "procedures", f"{place}.starts", allow_imports=allow_imports)
        compile_combine(stage.combine, place)
        for role, spec in stage.select.items():
            compile_part(spec, "selectors", f"{place}.select.{role}", allow_imports=allow_imports)
    compile_audits(recipe, allow_imports=allow_imports)
    compile_baselines(recipe, allow_imports=allow_imports)
    check_roles(recipe)
