"""The check that a recipe can run, before anything is loaded: every name, every field, every role."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from palimpsest.loop import Training
from palimpsest.objective import WEIGHTS, Total
from palimpsest.procedure import takes
from palimpsest.recipe import Lora, Recipe, RecipeError, Slow, Stage, short, suggest
from palimpsest.recipe_parts import (
    compile_audits,
    compile_audits_of,
    compile_baselines,
    compile_combine,
    compile_layers,
    compile_objective,
    compile_part,
    compile_reference,
    compile_training,
)
from palimpsest.role_data import audit_names, check_audited_roles, check_audits, check_roles, paired_with
from palimpsest.schedule import HasPlateau
from palimpsest.select import FillsBatches
from palimpsest.stage_matrix import BEFORE

__all__ = ["AsksCompanion", "ChecksTraining", "cautions", "check"]

LONGEST_NAME = 80


@runtime_checkable
class ChecksTraining(Protocol):
    """An objective or a procedure that goes with some training settings only."""

    def check_training(self, training: Training) -> object:
        """Raises ``ValueError`` for others, before anything is loaded."""
        ...


@runtime_checkable
class AsksCompanion(Protocol):
    """An edit or an intervention that works with a model trained beside this one."""

    @property
    def companion(self) -> str:
        """The name of that model."""
        ...


def check(recipe: Recipe, *, allow_imports: bool = False, audit_only: bool = False) -> None:
    """Builds every part once, so that a recipe that starts does not fail on a name an hour later."""
    if not recipe.stages and not audit_only:
        raise RecipeError("stages: a recipe needs at least one stage, with an objective and train; add one.")
    if not recipe.seeds or len(set(recipe.seeds)) != len(recipe.seeds):
        raise RecipeError("seeds: give at least one number, each once.")
    if any(not 0 <= seed < 2**63 for seed in recipe.seeds):
        raise RecipeError("seeds: give whole numbers from 0 to 2^63 - 1.")
    if ":" in recipe.model.pretrained and recipe.model.adapter == "classifier" and not allow_imports:
        raise RecipeError(
            f"model.pretrained: {short(recipe.model.pretrained)} names code outside Palimpsest, which runs only with"
            " --allow-imports; add that flag if you trust the recipe."
        )
    _check_name(recipe.name, "name")
    check_roles(recipe, allow_imports=allow_imports)
    for i, stage in enumerate(recipe.stages):
        _check_stage(stage, f"stages.{i}", recipe, allow_imports)
    for label, stages in recipe.variants.items():
        _check_name(label, f"variants.{short(label, quoted=False)}")
        if not stages:
            raise RecipeError(f"variants.{label}: it has no stage; give it one, or remove it.")
        for i, stage in enumerate(stages):
            _check_stage(stage, f"variants.{label}.{i}", recipe, allow_imports)
    trunk = _placed("stages", recipe.stages[: recipe.start])
    variants = [trunk | _placed(f"variants.{label}", stages) for label, stages in recipe.variants.items()]
    for chain in (_placed("stages", recipe.stages), *variants):
        _check_adapters(chain)
        _check_companions(chain, allow_imports)
    compile_audits(recipe, allow_imports=allow_imports)
    _check_tasks(recipe)
    runs = _check_runs(recipe, allow_imports)
    check_audits(recipe, runs)


def cautions(recipe: Recipe, *, allow_imports: bool = False) -> list[str]:
    """Sentences on what a recipe that can run may well not mean."""
    chains = [_placed("stages", recipe.stages)]
    trunk = _placed("stages", recipe.stages[: recipe.start])
    chains += [trunk | _placed(f"variants.{label}", stages) for label, stages in recipe.variants.items()]
    found = [text for chain in chains for text in _annealed_before(chain, allow_imports)]
    made = compile_baselines(recipe, allow_imports=allow_imports)
    found += [f"baselines.{i}: {baseline.caution}" for i, baseline in enumerate(made) if baseline.caution]
    return list(dict.fromkeys(found))


def _annealed_before(chain: Mapping[str, Stage], allow_imports: bool) -> list[str]:
    """A sentence for each stage that begins upon its plateau, at a rate from which the stage before has fallen."""
    found: list[str] = []
    trained = [(place, stage) for place, stage in chain.items() if stage.objective and stage.trains == "model"]
    for (_, before), (place, own) in itertools.pairwise(trained):
        first, then = (compile_training(s, place, allow_imports=allow_imports) for s in (before, own))
        if not isinstance(then.schedule, HasPlateau) or then.schedule(0.0) < then.schedule.plateau:
            continue
        reached = first.lr * (1.0 if first.schedule is None else first.schedule(1.0))
        plateau = then.lr * then.schedule.plateau
        if reached < plateau * (1 - 1e-9):
            found.append(
                f"{place}.train.schedule: this stage goes on at its plateau, a rate of {plateau:.3g}, though"
                f" {before.name} has fallen to {reached:.3g}; go on from a stage that ends on the plateau"
                " (annealing: 0), or give this one a warmup."
            )
    return found


def _placed(home: str, stages: Sequence[Stage]) -> dict[str, Stage]:
    return {f"{home}.{i}": stage for i, stage in enumerate(stages)}


def _check_adapters(stages: Mapping[str, Stage]) -> None:
    """Whether each adapter that is to go on was there, and is the same, at the end of the stage before."""
    before: Lora | None = None
    for place, stage in stages.items():
        lora, model = stage.lora, stage.trains == "model"
        if lora is not None and lora.continues:
            if before is None or not model:
                raise RecipeError(
                    f"{place}.lora.continues: the stage before it has no adapter of the model; give that stage lora, or"
                    " remove continues."
                )
            for key in ("rank", "alpha", "targets"):
                old = getattr(before, key)
                if getattr(lora, key) != old:
                    raise RecipeError(f"{place}.lora.{key}: the adapter that goes on has {short(old)}; write the same.")
            if stage.reference == "adapter_off":
                raise RecipeError(
                    f"{place}.reference: without its adapter the model is not the one before this stage, since the"
                    " adapter goes on; write auto or copy."
                )
        if model and (stage.objective or stage.edit):
            before = lora


def _check_companions(stages: Mapping[str, Stage], allow_imports: bool) -> None:
    """Whether what an edit works with is trained before it, and what an intervention works with at all."""
    earlier: list[str] = []
    for place, stage in stages.items():
        trained = [other.trains for other in stages.values() if other.trains != "model"]
        for key, spec, known in (("edit", stage.edit, earlier), ("intervention", stage.intervention, trained)):
            method = compile_part(spec, f"{key}s", f"{place}.{key}", allow_imports=allow_imports)
            if isinstance(method, AsksCompanion) and method.companion not in known:
                fix = suggest(method.companion, known) if known else "add one, with trains and starts."
                raise RecipeError(
                    f"{place}.{key}: no earlier stage trains a companion {short(method.companion)}; {fix}"
                )
        earlier += [stage.trains] if stage.trains != "model" else []


def _check_tasks(recipe: Recipe) -> None:
    """Whether each task has a stage of its own and an audit, in the order of the stages."""
    _check_chance(recipe)
    if not recipe.tasks:
        return
    names = [stage.name for stage in recipe.stages]
    for stage, role in recipe.tasks.items():
        place = f"tasks.{short(stage, quoted=False)}"
        if stage != BEFORE and names.count(stage) != 1:
            known = suggest(stage, [BEFORE, *names])
            raise RecipeError(f"{place}: it must be the name of one stage, or {BEFORE}; {known}")
        if not recipe.audits.get(role):
            raise RecipeError(f"{place}: nothing measures the role {short(role)}; name an audit for it under audits.")
    if len(set(recipe.tasks.values())) != len(recipe.tasks):
        raise RecipeError("tasks: two stages teach the same role; measure each on a role of its own.")
    own = [names.index(stage) for stage in recipe.tasks if stage != BEFORE]
    if not own or own != sorted(own):
        raise RecipeError("tasks: list the stages that teach in the order in which they run, at least one.")
    for label, stages in recipe.variants.items():
        variant = [s.name for s in stages if s.name in recipe.tasks]
        if len(set(variant)) != len(variant):
            raise RecipeError(f"variants.{label}: two of its stages have the same name; rename one.")


def _check_chance(recipe: Recipe) -> None:
    """Whether each level of chance is that of an audit of the tasks."""
    known = sorted({name for role in recipe.tasks.values() for name in audit_names(recipe.audits.get(role, []))})
    for audit, level in recipe.chance.items():
        place = f"chance.{short(audit, quoted=False)}"
        if not recipe.tasks:
            raise RecipeError(f"{place}: it is for forward transfer between tasks, and there are none; remove it.")
        if audit not in known:
            raise RecipeError(f"{place}: no task is measured by this; {suggest(audit, known)}")
        if not math.isfinite(level):
            raise RecipeError(f"{place}: give what a model without any skill scores, not {level}.")


def _check_name(name: str, place: str) -> None:
    """A name becomes the name of a folder, which must lie where it is looked for."""
    if not name.strip() or name.startswith(".") or not name.isprintable() or any(c in name for c in "/\\"):
        raise RecipeError(f"{place}: {short(name)} becomes a folder's name; give one without / and a leading point.")
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise RecipeError(f"{place}: {short(name)} becomes a folder's name; give one of at most {LONGEST_NAME} bytes.")


def _check_stage(stage: Stage, place: str, recipe: Recipe, allow_imports: bool) -> None:
    _check_name(stage.name, f"{place}.name")
    total = compile_objective(stage, place, allow_imports=allow_imports)
    if total is not None:
        _check_batches(total, compile_training(stage, place, allow_imports=allow_imports), place)
        unknown = [r for r in total.roles if r not in recipe.roles]
        if unknown:
            nearest = suggest(unknown[0], list(recipe.roles))
            raise RecipeError(f"{place}.objective: the role {short(unknown[0])} has no data; {nearest}")
    elif stage.train is not None:
        raise RecipeError(f"{place}: it has train but no objective; add one, or remove train.")
    elif stage.intervention is None and stage.edit is None:
        raise RecipeError(f"{place}: it does nothing; give it an objective, an edit or an intervention.")
    else:
        _check_idle(stage, place)
    if (stage.trains != "model") != (stage.starts is not None):
        raise RecipeError(f"{place}: a companion needs both trains (its name) and starts (what it is made from).")
    _check_reference(stage, total, place, recipe)
    for family, spec in {"edit": stage.edit, "mask": stage.mask, "intervention": stage.intervention}.items():
        compile_part(spec, f"{family}s", f"{place}.{family}", allow_imports=allow_imports)
    compile_layers(stage.layers, f"{place}.layers", allow_imports=allow_imports)
    if stage.layers is not None and stage.lora is not None:
        raise RecipeError(f"{place}.layers: they would replace parts of what lora adds; remove one of the two.")
    compile_part(stage.starts, "procedures", f"{place}.starts", allow_imports=allow_imports)
    _check_procedure(stage, place, allow_imports)
    _check_watch(stage, place, recipe, allow_imports)
    combine = compile_combine(stage.combine, place)
    try:
        combine.groups(total) if total is not None else None
    except ValueError as error:
        raise RecipeError(f"{place}.combine: {error}") from None
    _check_selectors(stage, total, place, allow_imports)


def _check_idle(stage: Stage, place: str) -> None:
    """A stage without an objective has nothing that is for training."""
    idle = {
        "mask": stage.mask,
        "combine": stage.combine,
        "select": stage.select or None,
        "layers": stage.layers,
        "procedure": stage.procedure,
        "watch": stage.watch,
    }
    for key in (k for k, v in idle.items() if v is not None):
        raise RecipeError(f"{place}.{key}: it is for training, but the stage has no objective; add one.")


def _check_selectors(stage: Stage, total: Total | None, place: str, allow_imports: bool) -> None:
    """Whether the batches that a selector fills are those that the stage trains on."""
    for role, spec in stage.select.items():
        selector = compile_part(spec, "selectors", f"{place}.select.{role}", allow_imports=allow_imports)
        if isinstance(selector, FillsBatches) and total is not None:
            batch = compile_training(stage, place, allow_imports=allow_imports).batch
            if batch % selector.block:
                raise RecipeError(
                    f"{place}.train.batch: {short(spec)} makes batches of {selector.block} rows, and {batch} is no"
                    " multiple of it; choose one."
                )


def _check_batches(total: Total, training: Training, place: str) -> None:
    """Whether rows that a term compares with each other stay together, and whatever else it asks for."""
    for i, term in enumerate(total.terms):
        if term.objective.couples and training.accumulation > 1:
            raise RecipeError(
                f"{place}.objective.{i}: {term.name} compares the rows of a batch with each other, which micro-batches"
                " would take apart; set train.accumulation to 1."
            )
        if term.objective.couples and training.batch == 1:
            raise RecipeError(
                f"{place}.objective.{i}: {term.name} compares the rows of a batch with each other, and one alone has"
                " nothing beside it; raise train.batch."
            )
        _check_training(term.objective, training, f"{place}.objective.{i}")


def _check_training(method: object, training: Training, place: str) -> None:
    """Whether a method that goes with some settings only goes with these."""
    if isinstance(method, ChecksTraining):
        try:
            method.check_training(training)
        except ValueError as error:
            raise RecipeError(f"{place}: {error}") from None


def _check_procedure(stage: Stage, place: str, allow_imports: bool) -> None:
    """A loop of its own does not know what only the stage's loop does."""
    procedure = compile_part(stage.procedure, "procedures", f"{place}.procedure", allow_imports=allow_imports)
    if procedure is None:
        return
    if not (dataclasses.is_dataclass(procedure) and takes(procedure, "training")):
        raise RecipeError(
            f"{place}.procedure: {short(stage.procedure)} does not train a model; it makes a companion (write it under"
            " starts), rewrites rows (write {rewrite: …, of: role}) or is called from Python."
        )
    _check_training(procedure, compile_training(stage, place, allow_imports=allow_imports), f"{place}.procedure")
    own = {"mask": stage.mask, "combine": stage.combine, "layers": stage.layers, "watch": stage.watch}
    for key in (k for k, v in own.items() if v is not None):
        raise RecipeError(
            f"{place}.{key}: a stage with a procedure trains in a loop of its own; remove one of the two."
        )
    if (stage.train or {}).get("loop", "plain") != "plain":
        raise RecipeError(f"{place}.train.loop: a procedure has a loop of its own; write train.loop: plain.")


def _check_watch(stage: Stage, place: str, recipe: Recipe, allow_imports: bool) -> None:
    """Whether what is to be measured on the way can be."""
    if stage.watch is None:
        return
    check_audited_roles(stage.watch.audits, f"{place}.watch.audits", recipe)
    compile_audits_of(stage.watch.audits, f"{place}.watch.audits", allow_imports=allow_imports)
    if (stage.train or {}).get("loop", "plain") != "plain":
        raise RecipeError(f"{place}.watch: the Trainer does not measure on the way; write train.loop: plain.")


def _check_reference(stage: Stage, total: Total | None, place: str, recipe: Recipe) -> None:
    """Whether the reference that the stage asks for would be the model before training, or can follow it."""
    kind = compile_reference(stage.reference, place)
    if isinstance(kind, Slow) and total is None:
        raise RecipeError(f"{place}.reference: a slow average follows training, but the stage has none; remove it.")
    if kind == "start" and stage.trains != "model":
        raise RecipeError(f"{place}.reference: a companion has no start but its own; write auto or copy.")
    if kind == "adapter_off":
        if stage.lora is None:
            raise RecipeError(f"{place}.reference: adapter_off needs lora in the same stage; add it, or write auto.")
        if stage.edit is not None:
            raise RecipeError(
                f"{place}.reference: adapter_off would see what {short(stage.edit)} rewrites in the base, not the model"
                " before training; write auto or copy."
            )
    wanted = total.needs("ref") if total is not None else ()
    drawn = [r for r in wanted if paired_with(recipe.roles.get(r)) is not None]
    if kind == "cached" and total is not None and total.taps_of("ref"):
        raise RecipeError(
            f"{place}.reference: a method here looks inside the reference, of which only the answers can be cached;"
            " write auto or copy."
        )
    if kind == "cached" and drawn:
        raise RecipeError(
            f"{place}.reference: the role {drawn[0]} is drawn afresh in every round, so it cannot be cached; write auto"
            " or copy."
        )


def _check_runs(recipe: Recipe, allow_imports: bool) -> list[str]:
    """The names of all runs, each once; the stages of baselines are checked like the recipe's own."""
    found = ["before", "after", *recipe.variants] if recipe.stages else ["before"]
    for i, baseline in enumerate(compile_baselines(recipe, allow_imports=allow_imports)):
        _check_name(baseline.name, f"baselines.{i}")
        for stage in baseline.stages:
            _check_stage(stage, f"baselines.{i}.{stage.name}", recipe, allow_imports)
        trunk = recipe.stages[: recipe.start] if baseline.start == "before" else []
        _check_adapters(_placed("stages", trunk) | _placed(f"baselines.{i}", baseline.stages))
        found.append(baseline.name)
    twice = [n for n in found if found.count(n) > 1]
    if twice:
        place = f"variants.{twice[0]}" if twice[0] in recipe.variants else "baselines"
        raise RecipeError(f"{place}: two runs would be called {twice[0]!r}; rename the variant or remove one of them.")
    if WEIGHTS in recipe.roles:
        raise RecipeError(f"roles.{WEIGHTS}: this name is kept for penalties on the parameters; choose another.")
    return found
