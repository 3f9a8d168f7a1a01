"""Runs a recipe: every stage, audit, variant and baseline for every seed, and the report at the end.

The run folder holds what is finished, so the same command goes on where a killed run stopped: trained stages are
read back, an unfinished stage goes on from its last checkpoint, audits that were done are not asked again.

    run-folder/recipe.yaml                       the resolved recipe
    run-folder/seed-0/<run>/<n>-<stage>/         checkpoints, then model.safetensors and outcome.json
    run-folder/seed-0/<run>/scores.json          every audited item
    run-folder/report.json, report.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from palimpsest.audit import Row, Scores
from palimpsest.checkpoint import write_json, write_text
from palimpsest.loop import Progress
from palimpsest.measure import build_report
from palimpsest.recipe import Recipe, RecipeError, Stage, to_yaml
from palimpsest.recipe_parts import compile_audits, compile_baselines
from palimpsest.report import Curve, Report, Run
from palimpsest.role_data import load_roles, refuse_shared_rows
from palimpsest.roles import Roles
from palimpsest.stage import Outcome, Trained, load_model, run_stage

__all__ = ["Events", "Plan", "plans", "run", "scores_from"]


class Events(Protocol):
    """What a run tells while it works; ``Quiet`` ignores it, the command line prints it."""

    def part(self, number: int, parts: int, label: str) -> None:
        """The run begins part ``number`` of ``parts``."""
        ...

    def progress(self, label: str, progress: Progress) -> None:
        """A training step is done."""
        ...

    def note(self, text: str) -> None:
        """A sentence for the user."""
        ...


class Quiet:
    """Tells nothing."""

    def part(self, number: int, parts: int, label: str) -> None:
        """Ignored."""

    def progress(self, label: str, progress: Progress) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


@dataclass(frozen=True)
class Plan:
    """One model that will be audited: where it starts and the stages that lead to it."""

    name: str
    kind: str
    label: str
    start: str
    stages: tuple[Stage, ...]


def plans(recipe: Recipe, *, allow_imports: bool = False) -> list[Plan]:
    """All models of a recipe, in the order in which they are made."""
    if not recipe.stages:
        return [Plan("before", "before", recipe.model.pretrained, "pretrained", ())]
    trunk, last = tuple(recipe.stages[:-1]), recipe.stages[-1]
    found = [
        Plan("before", "before", "before", "pretrained", trunk),
        Plan("after", "after", last.name, "before", (last,)),
        *(Plan(label, "variant", label, "before", tuple(stages)) for label, stages in recipe.variants.items()),
        *(
            Plan(b.name, "baseline", b.label, b.start, b.stages)
            for b in compile_baselines(recipe, allow_imports=allow_imports)
        ),
    ]
    names = [p.name for p in found]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise RecipeError(f"Two runs are called {twice[0]!r}; rename the variant or remove the baseline.")
    return found


def run(
    recipe: Recipe,
    out: Path,
    *,
    folder: Path | None = None,
    events: Events | None = None,
    allow_imports: bool = False,
) -> Report:
    """Runs ``recipe`` and writes its report into ``out``; ``folder`` is where relative data files are looked up.

    Raises ``RecipeError`` for anything wrong with the recipe or its data, ``Stopped`` when training failed or was
    interrupted; in both cases everything finished stays in ``out``.
    """
    from palimpsest.heap import keep_heap
    from palimpsest.page import render

    told = events or Quiet()
    keep_heap()
    _claim(out, recipe)
    rows, answers = load_roles(recipe, folder)
    refuse_shared_rows(recipe, rows)
    work = _Work(recipe, out, rows, told, allow_imports)
    work.answers = answers
    for seed in recipe.seeds:
        work.seed(seed)
    report = build_report(
        recipe.title or recipe.name,
        work.measured,
        [work.summary(plan) for plan in work.plans],
        work.curves,
        recipe.expect,
        to_yaml(recipe),
        environment(),
        {(role, key): row for role in recipe.audits for key, row in _by_id(role, rows[role]).items()},
    )
    report.save(out / "report.json")
    write_text(out / "report.html", render(report))
    return report


def _by_id(role: str, rows: Sequence[Row]) -> dict[str, Row]:
    from palimpsest.audit import row_ids

    return dict(zip(row_ids(rows, role), rows, strict=True))


def _claim(out: Path, recipe: Recipe) -> None:
    """Makes the folder this recipe's, or refuses one that is somebody else's."""
    own = to_yaml(recipe)
    kept = out / "recipe.yaml"
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; choose another folder with --out.")
    if kept.exists():
        if kept.read_text(encoding="utf-8") != own:
            raise RecipeError(f"{out} holds a run of another recipe; choose another folder with --out, or delete it.")
        return
    if out.is_dir() and any(out.iterdir()):
        raise RecipeError(f"{out} is not empty and holds no run; choose another folder with --out.")
    try:
        write_text(kept, own)
    except OSError as error:
        raise RecipeError(str(error)) from None


@dataclass
class _Work:
    """What one ``run`` keeps while it goes through plans and seeds."""

    recipe: Recipe
    out: Path
    rows: Mapping[str, Sequence[Row]]
    told: Events
    allow_imports: bool
    answers: Mapping[str, Any] = field(default_factory=dict)
    measured: dict[str, dict[int, list[Scores]]] = field(default_factory=dict)
    costs: dict[str, list[Outcome]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plans = plans(self.recipe, allow_imports=self.allow_imports)
        self.audits = compile_audits(self.recipe, allow_imports=self.allow_imports)
        self.parts = len(self.recipe.seeds) * sum(len(p.stages) + 1 for p in self.plans)
        self.part = 0

    def _tell(self, label: str) -> None:
        self.part += 1
        self.told.part(self.part, self.parts, label)

    def seed(self, seed: int) -> None:
        """All plans with one seed, on one working model whose weights are set back for each."""
        loaded = load_model(self.recipe, allow_imports=self.allow_imports, note=self.told.note)
        roles = Roles(loaded.adapter, self.rows, answers=self.answers)
        for stage in (s for plan in self.plans for s in plan.stages):
            for term in stage.objective:
                for role in [term["on"]] if isinstance(term["on"], str) else term["on"]:
                    if role in roles.rows:
                        roles[role]  # encoded now, so that a bad row ends the run before an hour of training
        starts: dict[str, dict[str, Tensor]] = {"pretrained": _weights(loaded.model)}
        for plan in self.plans:
            _set_weights(loaded.model, starts[plan.start])
            companions: dict[str, nn.Module] = {}
            home = self.out / f"seed-{seed}" / plan.name
            trained = Trained(loaded.model, companions, [])
            outcomes = []
            for number, stage in enumerate(plan.stages):
                label = f"{plan.label}: {stage.name}" if stage.name != plan.label else plan.label
                self._tell(f"{label} (seed {seed})" if len(self.recipe.seeds) > 1 else label)
                outcome = run_stage(
                    stage,
                    f"{plan.name}.{stage.name}",
                    trained,
                    roles,
                    seed=seed,
                    folder=home / f"{number}-{stage.name}",
                    on_step=partial(self.told.progress, label),
                    allow_imports=self.allow_imports,
                )
                outcomes.append(outcome)
                if seed == self.recipe.seeds[0]:
                    self.curves.extend(_curves(plan.name, stage.name, outcome, len(plan.stages)))
            if plan.name == "before":
                starts["before"] = _weights(loaded.model)
            self.costs.setdefault(plan.name, []).append(Outcome.joined(outcomes))
            self._tell(f"{plan.label}: audits" + (f" (seed {seed})" if len(self.recipe.seeds) > 1 else ""))
            same = "before" if not plan.stages and plan.start == "before" else None
            scores = self.measured[same][seed] if same else self._audit(trained, roles, home / "scores.json")
            self.measured.setdefault(plan.name, {})[seed] = scores

    def _audit(self, trained: Trained, roles: Roles, file: Path) -> list[Scores]:
        """All audits of one model, read back where they were done before."""
        if file.exists():
            return [scores_from(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
        found = []
        with ExitStack() as stack:
            for intervention in trained.interventions:
                stack.enter_context(intervention.attach(trained.model, trained.companions))
            subject = roles.adapter.subject(trained.model)
            for role, audits in self.audits.items():
                for spec, audit in zip(self.recipe.audits[role], audits, strict=True):
                    name = spec if isinstance(spec, str) else next(iter(spec))
                    try:
                        found.append(_named(audit(subject, self.rows, role), name, role))
                    except (ValueError, KeyError) as error:
                        raise RecipeError(f"audits.{role}.{name}: {error}") from None
        write_json(file, [scores_to(scores) for scores in found])
        return found

    def summary(self, plan: Plan) -> Run:
        """Names and costs of a run; costs are those of the first seed's training."""
        cost = self.costs[plan.name][0]
        return Run(
            plan.name,
            plan.kind,  # type: ignore[arg-type]
            plan.label,
            seconds=cost.seconds if plan.stages else 0.0,
            tokens=cost.tokens,
            steps=cost.steps,
            peak_memory_bytes=cost.peak_memory_bytes,
            trainable_parameters=cost.trainable_parameters,
            companions=tuple(cost.companions),
        )


def _curves(run_name: str, stage: str, outcome: Outcome, stages: int) -> list[Curve]:
    prefix = f"{stage}: " if stages > 1 else ""
    return [Curve(run_name, f"{prefix}{name}", tuple(points)) for name, points in outcome.curves.items()]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(weights[name])


def _named(scores: Scores, name: str, role: str) -> Scores:
    import dataclasses

    return dataclasses.replace(scores, name=name, role=role)


def scores_to(scores: Scores) -> dict[str, Any]:
    import dataclasses

    entry = {f.name: getattr(scores, f.name) for f in dataclasses.fields(scores)}
    entry["items"] = scores.items.tolist()
    entry["groups"] = None if scores.groups is None else scores.groups.tolist()
    entry["extra"] = dict(scores.extra)
    return entry


def scores_from(entry: dict[str, Any]) -> Scores:
    """Scores as a run folder keeps them."""
    groups = entry.pop("groups")
    return Scores(
        **{
            **entry,
            "items": torch.tensor(entry["items"], dtype=torch.float64),
            "ids": tuple(entry["ids"]),
            "groups": None if groups is None else torch.tensor(groups),
            "outputs": None if entry["outputs"] is None else tuple(entry["outputs"]),
        }
    )


def environment() -> dict[str, object]:
    """What a reader needs to know of the machine: versions, processor, device."""
    import importlib.metadata
    import os
    import platform

    found: dict[str, object] = {"python": platform.python_version()}
    for package in ("palimpsest", "torch", "transformers", "peft", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processors"] = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count()
    found["threads"] = torch.get_num_threads()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found
