"""Runs a recipe: every stage, audit, variant and baseline for every seed, and the report at the end.

The run folder holds what is finished, so the same command goes on where a killed run stopped: trained stages are
read back, an unfinished stage goes on from its last checkpoint, audits that were done are not asked again.

    run-folder/recipe.yaml, data.json            the resolved recipe, and digests of its data
    run-folder/seed-0/<run>/<n>-<stage>/         checkpoints, then model.safetensors and outcome.json
    run-folder/seed-0/<run>/scores.json          every audited item
    run-folder/report.json, report.html

On several processes (see ``processes``) each item is measured once, and the first process reads and writes the folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from palimpsest.audit import Row, Scores, row_ids
from palimpsest.checkpoint import write_text
from palimpsest.intervention import Intervention
from palimpsest.loaded import load_model
from palimpsest.loop import Progress
from palimpsest.measure import build_report
from palimpsest.processes import agreed, count, one_after_the_other, shared
from palimpsest.recipe import Recipe, RecipeError, Stage, to_yaml
from palimpsest.recipe_parts import compile_audits, compile_baselines
from palimpsest.report import Curve, Report, Run
from palimpsest.role_data import audit_names, fingerprints, load_roles, refuse_shared_rows
from palimpsest.roles import Answers, Derived, Roles
from palimpsest.run_folder import claim, claim_data, read_scores, write_scores
from palimpsest.stage import Outcome, Trained, explained, run_stage
from palimpsest.stage_matrix import BEFORE, stage_matrices
from palimpsest.stage_watch import watched_in
from palimpsest.step import States
from palimpsest.watch import Watched

__all__ = ["Events", "Plan", "plans", "run"]


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
    """One model that will be audited: where it starts and the stages that lead to it; ``places`` are their paths."""

    name: str
    kind: str
    label: str
    start: str
    stages: tuple[Stage, ...]
    places: tuple[str, ...]


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
        found.append(Plan(b.name, "baseline", b.label, b.start, b.stages, _places(f"baselines.{b.name}", b.stages)))
    return found


def _label(stages: Sequence[Stage]) -> str:
    """A stage's name, or those of the first and the last of several."""
    return stages[0].name if len(stages) == 1 else f"{stages[0].name} to {stages[-1].name}"


def _places(home: str, stages: Sequence[Stage]) -> tuple[str, ...]:
    return tuple(f"{home}.{i}" for i in range(len(stages)))


def run(
    recipe: Recipe,
    out: Path,
    *,
    folder: Path | None = None,
    events: Events | None = None,
    allow_imports: bool = False,
) -> Report:
    """Runs ``recipe`` and writes its report into ``out``; ``folder`` is where relative data files are looked up.

    A finished run is not run again: its report is read back.  Raises ``RecipeError`` for anything wrong with the
    recipe or its data, ``Stopped`` when training failed or was interrupted; in both cases everything finished stays
    in ``out``.
    """
    from palimpsest.heap import keep_heap

    told = events or Quiet()
    keep_heap()
    agreed(lambda: claim(out, recipe))
    rows, answers = load_roles(recipe, folder)
    refuse_shared_rows(recipe, rows)
    agreed(lambda: claim_data(out, fingerprints(rows, answers)))
    report = agreed(lambda: Report.load(out / "report.json") if (out / "report.json").exists() else None)
    if report is not None:
        told.note(f"{out} holds the finished run of this recipe; its report is read back.")
    else:
        work = _Work(recipe, out, rows, answers, told, allow_imports)
        for seed in recipe.seeds:
            work.seed(seed)
        report = agreed(work.report)
    agreed(partial(_show, report, out))
    return report


def _show(report: Report, out: Path) -> None:
    """Writes the report's page, where it is not there yet."""
    if not (out / "report.html").exists():
        from palimpsest.page import render

        write_text(out / "report.html", render(report))


@dataclass(frozen=True)
class _Start:
    """A model that other plans go on from: its weights, and what was made beside it."""

    weights: Mapping[str, Tensor]
    companions: Mapping[str, nn.Module] = field(default_factory=dict)
    interventions: Sequence[Intervention] = ()
    states: States = field(default_factory=dict)


@dataclass
class _Work:
    """What one ``run`` keeps while it goes through plans and seeds."""

    recipe: Recipe
    out: Path
    rows: Mapping[str, Sequence[Row]]
    answers: Mapping[str, Answers | Derived]
    told: Events
    allow_imports: bool
    measured: dict[str, dict[int, list[Scores]]] = field(default_factory=dict)
    costs: dict[str, list[Outcome]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    staged: dict[str, dict[int, list[tuple[str, list[Scores]]]]] = field(default_factory=dict)
    watched: dict[str, dict[int, list[Watched | None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = plans(self.recipe, allow_imports=self.allow_imports)
        self.audits = compile_audits(self.recipe, allow_imports=self.allow_imports)
        self.parts = len(self.recipe.seeds) * sum(
            len(p.stages) + 1 + (len(p.stages) - 1 if self._in_sequence(p) else 0) for p in self.plans
        )
        self.part = 0

    def _in_sequence(self, plan: Plan) -> bool:
        """Whether the plan is audited after each of its stages."""
        return bool(self.recipe.tasks) and plan.start == "before" and len(plan.stages) > 1

    def _tell(self, label: str, seed: int) -> None:
        self.part += 1
        self.told.part(self.part, self.parts, f"{label} (seed {seed})" if len(self.recipe.seeds) > 1 else label)

    def seed(self, seed: int) -> None:
        """All plans with one seed, on one working model whose weights are set back for each."""
        loaded = one_after_the_other(
            lambda: load_model(self.recipe, allow_imports=self.allow_imports, note=self.told.note)
        )
        roles = Roles(loaded.adapter, self.rows, answers=self.answers)
        self._encode(roles)
        starts = {"pretrained": _Start(_weights(loaded.model))}
        for plan in self.plans:
            start = starts[plan.start]
            _set_weights(loaded.model, start.weights)
            trained = Trained(loaded.model, dict(start.companions), list(start.interventions), start.states)
            home = self.out / f"seed-{seed}" / plan.name
            self._train(plan, trained, roles, seed, home)
            if plan.name == "before":
                starts["before"] = _Start(
                    _weights(loaded.model), trained.companions, trained.interventions, trained.states
                )
            self._tell(f"{plan.label}: audits", seed)
            same = not plan.stages and plan.start == "before"
            scores = self.measured["before"][seed] if same else self._audit(trained, roles, home / "scores.json", seed)
            self.measured.setdefault(plan.name, {})[seed] = scores
            if self._in_sequence(plan):
                self.staged[plan.name][seed].append((plan.stages[-1].name, scores))

    def _train(self, plan: Plan, trained: Trained, roles: Roles, seed: int, home: Path) -> None:
        outcomes = []
        rows: list[tuple[str, list[Scores]]] = []
        if self._in_sequence(plan):
            rows.append((BEFORE, self.measured["before"][seed]))
            self.staged.setdefault(plan.name, {})[seed] = rows
        for number, stage in enumerate(plan.stages):
            label = f"{plan.label}: {stage.name}" if stage.name != plan.label else plan.label
            self._tell(label, seed)
            outcome = run_stage(
                stage,
                plan.places[number],
                trained,
                roles,
                seed=seed,
                folder=home / f"{number}-{stage.name}",
                on_step=partial(self.told.progress, label),
                allow_imports=self.allow_imports,
            )
            outcomes.append(outcome)
            watched = agreed(partial(watched_in, home / f"{number}-{stage.name}"))
            self.watched.setdefault(plan.name, {}).setdefault(seed, []).append(watched)
            if self._in_sequence(plan) and number + 1 < len(plan.stages):
                self._audit_between(stage, label, trained, roles, home / f"{number}-{stage.name}", seed, rows)
            if seed == self.recipe.seeds[0]:
                self.curves.extend(_curves(plan.name, stage.name, outcome, len(plan.stages)))
        self.costs.setdefault(plan.name, []).append(Outcome.joined(outcomes))

    def _audit_between(
        self,
        stage: Stage,
        label: str,
        trained: Trained,
        roles: Roles,
        folder: Path,
        seed: int,
        rows: list[tuple[str, list[Scores]]],
    ) -> None:
        """All audits after one stage of a sequence: a row of the stage matrix."""
        self._tell(f"{label}: audits", seed)
        rows.append((stage.name, self._audit(trained, roles, folder / "scores.json", seed)))

    def _encode(self, roles: Roles) -> None:
        """Encodes all that will be trained on now, so that a bad row ends the run before an hour of training."""
        named = {r for plan in self.plans for stage in plan.stages for term in stage.objective for r in _on(term)}
        for role in (r for r in (*roles.rows, *roles.answers) if r in named):
            try:
                if role in roles.rows:
                    roles[role]
                else:
                    paired = roles.answers[role]
                    for row in paired.trials(self.rows[paired.to][0]):
                        roles.adapter.encode(row, f"{paired.to} row 1 with an answer")
            except Exception as error:
                told = explained(error, f"roles.{role}")
                if told is error:
                    raise
                raise told from error

    def _audit(self, trained: Trained, roles: Roles, file: Path, seed: int) -> list[Scores]:
        """All audits of one model; each is kept as soon as it is done, and read back where it was done before."""
        stored = agreed(lambda: read_scores(file) if file.exists() else [])
        done = {(scores.role, scores.name): scores for scores in stored}
        with ExitStack() as stack:
            for intervention in trained.interventions:
                try:
                    stack.enter_context(intervention.attach(trained.model, trained.companions))
                except ValueError as error:
                    raise RecipeError(f"{type(intervention).__name__}: {error}") from error
            subject = shared(roles.adapter.subject(trained.model))
            for role, audits in self.audits.items():
                for name, audit in zip(audit_names(self.recipe.audits[role]), audits, strict=True):
                    if (role, name) in done:
                        continue
                    torch.manual_seed(seed)  # an audit's figure must not depend on the audits before it
                    try:
                        scores = audit(subject, self.rows, role)
                    except Exception as error:
                        told = explained(error, f"audits.{role}.{name}")
                        if told is error:
                            raise
                        raise told from error
                    done[role, name] = dataclasses.replace(scores, name=name, role=role)
                    agreed(lambda: write_scores(file, list(done.values())))
        return agreed(lambda: read_scores(file))

    def report(self) -> Report:
        """Everything measured, as a report, which is written too."""
        report = build_report(
            self.recipe.title or self.recipe.name,
            self.measured,
            [self._summary(plan) for plan in self.plans],
            self.curves,
            self.recipe.expect,
            to_yaml(self.recipe),
            environment(),
            {(role, key): row for role in self.recipe.audits for key, row in _by_id(role, self.rows[role]).items()},
            matrices=stage_matrices(self.staged, self.recipe.tasks, self.watched),
        )
        write_text(self.out / "report.json", report.to_json() + "\n")
        return report

    def _summary(self, plan: Plan) -> Run:
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


def _on(term: Mapping[str, Any]) -> list[str]:
    """The roles of a term as a recipe writes it."""
    return [term["on"]] if isinstance(term["on"], str) else list(term["on"])


def _by_id(role: str, rows: Sequence[Row]) -> dict[str, Row]:
    return dict(zip(row_ids(rows, role), rows, strict=True))


def _curves(run_name: str, stage: str, outcome: Outcome, stages: int) -> list[Curve]:
    prefix = f"{stage}: " if stages > 1 else ""
    return [Curve(run_name, f"{prefix}{name}", tuple(points)) for name, points in outcome.curves.items()]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(weights[name])


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
    if count() > 1:
        found["processes"] = count()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found
