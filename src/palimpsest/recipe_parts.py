"""From the names in a recipe to methods."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest import names
from palimpsest.loop import Training
from palimpsest.objective import Schedule, Term, Total, on
from palimpsest.own_parts import failed, failure
from palimpsest.recipe import Baseline, Recipe, RecipeError, Slow, Spec, Stage, keys, short, suggest, validated

__all__ = [
    "compile_audits",
    "compile_audits_of",
    "compile_baselines",
    "compile_combine",
    "compile_layers",
    "compile_objective",
    "compile_part",
    "compile_reference",
    "compile_training",
]

PLAIN_OPTIMIZERS = ("adamw", "sgd")
REFERENCES = ("auto", "copy", "cached", "adapter_off", "start", "slow_average")


def compile_objective(stage: Stage, place: str, *, allow_imports: bool = False) -> Total | None:
    """The stage's objective, or None where it has none."""
    terms = [_term(spec, f"{place}.objective.{i}", allow_imports) for i, spec in enumerate(stage.objective)]
    return Total(tuple(terms)) if terms else None


def _term(spec: Mapping[str, Any], place: str, allow_imports: bool) -> Term:
    methods = [k for k in spec if k not in ("on", "weight")]
    if "on" not in spec:
        raise RecipeError(f"{place}: a term needs `on:`, the role it looks at; add it.")
    if len(methods) != 1:
        raise RecipeError(
            f"{place}: a term names one method, as {{on: role, method: {{…}}}}; it names {len(methods)}:"
            f" {short(sorted(map(str, methods)))}."
        )
    roles = spec["on"]
    if not (isinstance(roles, str) or (isinstance(roles, list) and roles and all(isinstance(r, str) for r in roles))):
        raise RecipeError(f"{place}.on: name a role or a list of roles, not {short(roles)}.")
    method = _built({methods[0]: spec[methods[0]]}, "objectives", place, allow_imports)
    try:
        term = on(roles if isinstance(roles, str) else tuple(roles), method)
    except TypeError:  # something of the user's that is none
        raise RecipeError(f"{place}: {short(methods[0])} is no objective; name a subclass of Objective.") from None
    except ValueError as error:  # on more or fewer roles than it looks at
        raise RecipeError(f"{place}.on: {error}") from None
    return term * _weight(spec.get("weight", 1.0), f"{place}.weight", allow_imports)


def _weight(weight: Any, place: str, allow_imports: bool) -> float | Schedule:
    """A number, also as the text that YAML 1.1 makes of ``1e-3``, or a schedule."""
    with contextlib.suppress(ValueError):
        weight = float(weight) if isinstance(weight, str) else weight
    if isinstance(weight, (str, dict)):
        schedule: Schedule = _built(weight, "schedules", place, allow_imports)
        return schedule
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)
    except (TypeError, OverflowError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"{place}: give a finite number or a schedule, not {short(weight)}.")
    return number


def compile_training(stage: Stage, place: str, *, allow_imports: bool = False) -> Training:
    """The stage's training settings with schedule and optimizer built."""
    raw = dict(stage.train or {})
    unknown = [k for k in raw if k not in keys(Training)]
    if unknown:
        raise RecipeError(
            f"{place}.train.{short(unknown[0], quoted=False)}: there is no such key;"
            f" {suggest(str(unknown[0]), keys(Training))}"
        )
    if raw.get("schedule") is not None:
        raw["schedule"] = _built(raw["schedule"], "schedules", f"{place}.train.schedule", allow_imports)
    optimizer = raw.get("optimizer", "adamw")
    if optimizer not in PLAIN_OPTIMIZERS:
        raw["optimizer"] = _optimizer(optimizer, f"{place}.train.optimizer", allow_imports)
    training: Training = validated(Training, raw, f"{place}.train")
    return training


def _optimizer(spec: Any, place: str, allow_imports: bool) -> Any:
    name = next(iter(spec), None) if isinstance(spec, dict) else spec
    known = [*PLAIN_OPTIMIZERS, *names.names("optim")]
    if isinstance(name, str) and ":" not in name and name not in known:
        raise RecipeError(f"{place}: there is no optimizer {short(name)}; {suggest(name, known)}")
    if name in PLAIN_OPTIMIZERS:
        raise RecipeError(f"{place}: {name} takes no fields here; write optimizer: {name}, and lr under train.")
    return _built(spec, "optim", place, allow_imports)


def _built(spec: Any, family: str, place: str, allow_imports: bool) -> Any:
    """A method by name; whatever its own checks raise names the place."""
    name = next(iter(spec), None) if isinstance(spec, dict) and len(spec) == 1 else spec
    if isinstance(name, str) and ":" not in name and not names.names(family):
        raise RecipeError(f"{place}: there is no {short(name)}, since Palimpsest has no {family} yet; leave it out.")
    try:
        made = names.build(spec, family, place=place, allow_imports=allow_imports)
        if isinstance(made, type):  # a class of the user's, which has no fields that could be given
            raise ValueError(f"{short(name)} has no settings; write @dataclass(frozen=True) above the class.")
        return made
    except Exception as error:
        known = isinstance(error, ValueError | LookupError | TypeError | ArithmeticError)
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if isinstance(name, str) and ":" in name and not isinstance(error, names.UnknownName | ValueError):
            text = failure(short(name), error)  # the user's own class
        elif not known:
            raise
    sentence = text if text.startswith(place) else f"{place}: {text}"
    raise RecipeError(sentence if sentence.endswith((".", "?")) else f"{sentence}.")


def compile_part(spec: Spec | None, family: str, place: str, *, allow_imports: bool = False) -> Any:
    """Any other named part of a stage, or None."""
    return None if spec is None else _built(spec, family, place, allow_imports)


def compile_layers(spec: Spec | Sequence[Spec] | None, place: str, *, allow_imports: bool = False) -> list[Any]:
    """The layers of a stage in the order in which they are installed, one or a list of them."""
    if isinstance(spec, list):
        return [_built(one, "layers", f"{place}.{i}", allow_imports) for i, one in enumerate(spec)]
    return [] if spec is None else [_built(spec, "layers", place, allow_imports)]


def compile_combine(spec: Spec | None, place: str) -> Any:
    """``sum`` or one of the projections."""
    from palimpsest.combine import ConeProjection, OneSidedProjection, Sum

    known = {"sum": Sum, "one_sided_projection": OneSidedProjection, "cone_projection": ConeProjection}
    spec = {spec: {}} if isinstance(spec, str) else {"sum": {}} if spec is None else spec
    if len(spec) != 1:
        raise RecipeError(f"{place}.combine: name one combination, not {len(spec)}; there are: {', '.join(known)}.")
    name, fields = next(iter(spec.items()))
    fields = {} if fields is None else fields
    if name not in known:
        raise RecipeError(f"{place}.combine: there is no combination {short(name)}; {suggest(str(name), list(known))}")
    if not isinstance(fields, dict):
        raise RecipeError(f"{place}.combine.{name}: write its fields as {{field: value}}, not {short(fields)}.")
    cls = known[name]
    unknown = [k for k in fields if k not in keys(cls)]
    if unknown:
        raise RecipeError(
            f"{place}.combine.{name}.{short(unknown[0], quoted=False)}: there is no such key;"
            f" {suggest(str(unknown[0]), keys(cls))}"
        )
    return validated(cls, fields, f"{place}.combine.{name}")


def compile_reference(spec: Spec, place: str) -> str | Slow:
    """The name of a frozen reference, or the settings of a slow average."""
    place = f"{place}.reference"
    name, fields = (spec, None) if isinstance(spec, str) else next(iter(spec.items()), ("", None))
    if name not in REFERENCES or (isinstance(spec, dict) and len(spec) != 1):
        raise RecipeError(f"{place}: there is no reference {short(spec)}; {suggest(str(name), REFERENCES)}")
    if name != "slow_average":
        if fields:
            raise RecipeError(f"{place}.{name}: it has no fields; write reference: {name}.")
        return str(name)
    fields = {} if fields is None else fields
    if not isinstance(fields, dict):
        raise RecipeError(f"{place}.{name}: write its fields as {{field: value}}, not {short(fields)}.")
    unknown = [k for k in fields if k not in keys(Slow)]
    if unknown:
        key = short(unknown[0], quoted=False)
        raise RecipeError(f"{place}.{name}.{key}: there is no such key; {suggest(str(unknown[0]), keys(Slow))}")
    slow: Slow = validated(Slow, fields, f"{place}.{name}")
    return slow


def compile_audits(recipe: Recipe, *, allow_imports: bool = False) -> dict[str, list[Any]]:
    """Role -> audits, built."""
    return compile_audits_of(recipe.audits, "audits", allow_imports=allow_imports)


def compile_audits_of(
    audits: Mapping[str, Sequence[Spec]], place: str, *, allow_imports: bool = False
) -> dict[str, list[Any]]:
    """The audits of a recipe, or of what a stage watches, built."""
    return {
        role: [_built(spec, "audits", f"{place}.{role}.{i}", allow_imports) for i, spec in enumerate(specs)]
        for role, specs in audits.items()
    }


def compile_baselines(recipe: Recipe, *, allow_imports: bool = False) -> list[Baseline]:
    """The baselines' stages."""
    found = []
    for i, spec in enumerate(recipe.baselines):
        maker = _built(spec, "baselines", f"baselines.{i}", allow_imports)
        try:
            baseline = maker(recipe)
        except Exception as error:
            own = failed(error, f"baselines.{i}")
            if own is None and not isinstance(error, ValueError):
                raise
            raise own or RecipeError(f"baselines.{i}: {error}") from error
        if not isinstance(baseline, Baseline):
            raise RecipeError(f"baselines.{i}: {short(spec)} is no baseline; it must return a Baseline.")
        found.append(baseline)
    return found
