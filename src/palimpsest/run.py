"""Runs a recipe: every stage, audit, variant and baseline for every seed, and the report at the end.

The run folder holds what is finished, so the same command goes on where a killed run stopped: trained stages are
read back, an unfinished stage goes on from its last checkpoint, audits that were done are not asked again.  So it does
with other audits, seeds, variants and baselines: what is new is trained and asked, and the report has no others.

    run-folder/recipe.yaml, stages.yaml          the resolved recipe; the stages of every model that there has ever been
    run-folder/data.json, base.json              digests of its data, and of the weights it starts from if they are here
    run-folder/code.json                         the commits of the code that worked on it, where there are any
    run-folder/seed-0/<run>/<n>-<stage>/         checkpoints, then model.safetensors and outcome.json; what it watched
    run-folder/seed-0/<run>/<n>-<stage>.states.safetensors   what its objectives leave to later stages, where they do
    run-folder/seed-0/<run>/scores.jsonl         every audited item, a line an audit; with tasks in stages' folders too
    run-folder/report.json, report.html

On several processes (see ``processes``) each item is measured once, and the first process reads and writes the folder.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from palimpsest.audit import Row, Scores, Telling, row_ids
from palimpsest.base_model import claim_base, found_base
from palimpsest.checkpoint import write_text
from palimpsest.environment import environment, own_commit
from palimpsest.loaded import Loaded, base_of, load_model
from palimpsest.loop import Progress
from palimpsest.measure import build_report
from palimpsest.own_parts import OwnCodeError, checked_scores, with_traceback
from palimpsest.plans import Plan, about, plans, stage_folders
from palimpsest.processes import agreed, one_after_the_other, shared
from palimpsest.recipe import Recipe, to_yaml
from palimpsest.recipe_check import cautions
from palimpsest.recipe_parts import compile_audits, compile_baselines
from palimpsest.rehearsal import rehearse, rehearse_loaded
from palimpsest.report import Curve, Report, Run, over_seeds
from palimpsest.role_data import audit_names, fingerprints, load_roles
from palimpsest.roles import Answers, Derived, Roles
from palimpsest.run_folder import (
    add_scores,
    asked_of,
    claim,
    claim_code,
    claim_data,
    code_of,
    commits_of,
    finished,
    keep,
    made_here,
    measured_in,
    read_scores,
)
from palimpsest.shared_rows import contradictions, refuse_seen_rows, refuse_shared_rows
from palimpsest.stage import Trained, explaining, run_stage
from palimpsest.stage_folder import Outcome, tidy_all
from palimpsest.stage_matrix import BEFORE, stage_matrices
from palimpsest.stage_watch import watched_in
from palimpsest.starting_weights import Start, set_weights, start_elsewhere, weights_of
from palimpsest.watch import Watched

__all__ = ["Events", "run"]

SCORES, TRACEBACK = "scores.jsonl", "traceback.txt"


class Events(Protocol):
    """What a run tells while it works; ``Quiet`` ignores it, the command line prints it."""

    def part(self, number: int, parts: int, label: str) -> None:
        """The run begins part ``number`` of ``parts``."""
        ...

    def progress(self, label: str, progress: Progress) -> None:
        """A training step is done."""
        ...

    def answered(self, label: str, answered: int, asked: int, seconds: float) -> None:
        """An audit's question is answered for so many of the rows of this process, ``seconds`` after it was asked."""
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

    def answered(self, label: str, answered: int, asked: int, seconds: float) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


def run(
    recipe: Recipe,
    out: Path,
    *,
    folder: Path | None = None,
    events: Events | None = None,
    allow_imports: bool = False,
) -> Report:
    """Runs ``recipe`` and writes its report into ``out``.

    Relative paths, of data and of the model, are looked up from ``folder``, then from the working directory.

    A finished run is not run again: its report is read back.  Raises ``RecipeError`` for anything wrong with the
    recipe or its data, ``Stopped`` when training failed or was interrupted; in both cases everything finished stays
    in ``out``.  Where code of the user's own failed, its traceback lies there too.
    """
    from palimpsest.heap import keep_heap

    keep_heap()
    try:
        return _run(recipe, out, folder, events or Quiet(), allow_imports)
    except OwnCodeError as error:
        raise with_traceback(error, out / TRACEBACK) from error.__cause__


def _run(recipe: Recipe, out: Path, folder: Path | None, told: Events, allow_imports: bool) -> Report:
    own = plans(recipe, allow_imports=allow_imports)
    other = agreed(lambda: claim(out, recipe, own))
    base = agreed(partial(found_base, out, recipe.model, folder))
    rows, answers = load_roles(recipe, folder, base)
    refuse_shared_rows(recipe, rows)
    refuse_seen_rows(compile_baselines(recipe, allow_imports=allow_imports), recipe, rows)
    digests = fingerprints(rows, answers) | code_of(recipe, allow_imports=allow_imports)
    agreed(lambda: claim_data(out, digests))
    agreed(partial(claim_base, out, base))
    agreed(lambda: (out / TRACEBACK).unlink(missing_ok=True))
    report = agreed(partial(finished, out, recipe, own, asked_of(recipe.audits, allow_imports=allow_imports)))
    if report is not None:
        agreed(partial(keep, out, recipe, own, digests))
        agreed(partial(tidy_all, out))
        told.note(f"{out} holds the finished run of this recipe; its report is read back.")
    else:
        work = _Work(recipe, own, out, folder, base, rows, answers, digests, told, allow_imports)
        for note in filter(None, (about(recipe), *work.cautions)):
            told.note(note)
        if other:
            told.note(f"{out} holds this run with other {' and '.join(other)}; what is trained is read back.")
        agreed(lambda: claim_code(out, own_commit()))
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


class _Questions:
    """Passes on how far an audit is, with the time since its question was asked; after one comes the next."""

    def __init__(self, told: Events, label: str) -> None:
        self.told, self.label, self.start = told, label, time.perf_counter()

    def __call__(self, answered: int, asked: int) -> None:
        now = time.perf_counter()
        self.told.answered(self.label, answered, asked, now - self.start)
        if answered == asked:
            self.start = now


@dataclass
class _Work:
    """What one ``run`` keeps while it goes through plans and seeds."""

    recipe: Recipe
    plans: Sequence[Plan]
    out: Path
    folder: Path | None
    base: Path | None
    rows: Mapping[str, Sequence[Row]]
    answers: Mapping[str, Answers | Derived]
    digests: Mapping[str, str]
    told: Events
    allow_imports: bool
    measured: dict[str, dict[int, list[Scores]]] = field(default_factory=dict)
    costs: dict[str, list[Outcome]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    staged: dict[str, dict[int, list[tuple[str, Path]]]] = field(default_factory=dict)
    watched: dict[str, dict[int, list[Watched | None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folders = stage_folders(agreed(partial(made_here, self.out, self.plans)))
        self.audits = compile_audits(self.recipe, allow_imports=self.allow_imports)
        self.asked = asked_of(self.recipe.audits, allow_imports=self.allow_imports)
        self.parts = len(self.recipe.seeds) * sum(
            len(p.stages) + 1 + (len(p.stages) - 1 if self._in_sequence(p) else 0) for p in self.plans
        )
        self.part = 0
        stages = {at: stage for plan in self.plans for at, stage in zip(plan.places, plan.stages, strict=True)}
        rehearse(self.recipe, self.rows, self.answers, stages, allow_imports=self.allow_imports)
        self.cautions = cautions(self.recipe, allow_imports=self.allow_imports)
        self.cautions += contradictions(self.recipe, self.rows, allow_imports=self.allow_imports)

    def _in_sequence(self, plan: Plan) -> bool:
        """Whether the plan is audited after each of its stages: there are several, or one and something before it."""
        fewest = 0 if BEFORE in self.recipe.tasks else 1
        return bool(self.recipe.tasks) and plan.start == "before" and len(plan.stages) > fewest

    def _tell(self, label: str, seed: int) -> None:
        self.part += 1
        self.told.part(self.part, self.parts, f"{label} (seed {seed})" if len(self.recipe.seeds) > 1 else label)

    def seed(self, seed: int) -> None:
        """All plans with one seed, on one working model whose weights are set back for each."""
        torch.manual_seed(seed)  # a network of the user's own draws its start from it, whatever was done before
        loaded = self._load(self.recipe)
        roles = Roles(loaded.adapter, self.rows, answers=self.answers)
        self._encode(roles)
        if seed == self.recipe.seeds[0]:
            rehearse_loaded(self.recipe, self.rows, loaded, allow_imports=self.allow_imports)
            for plan in self.plans:  # what is wrong with another start is found before an hour of training
                self._elsewhere(plan, loaded.model, seed)
            agreed(partial(keep, self.out, self.recipe, self.plans, self.digests))
        starts = {"pretrained": Start(weights_of(loaded.model))}
        for plan in self.plans:
            start = self._elsewhere(plan, loaded.model, seed) or starts[plan.start]
            set_weights(loaded.model, start.weights)
            trained = Trained(
                loaded.model, dict(start.companions), list(start.interventions), start.states, start.weights
            )
            home = self.out / f"seed-{seed}"
            self._train(plan, trained, roles, seed, home)
            if plan.name == "before":
                starts["before"] = Start(
                    weights_of(loaded.model), trained.companions, trained.interventions, trained.states
                )
            self._tell(f"{plan.label}: audits", seed)
            same = not plan.stages and plan.start == "before"
            file = home / plan.name / SCORES
            if not same:
                self._audit(trained, roles, file, seed)
            scores = self.measured["before"][seed] if same else agreed(partial(read_scores, file, asked=self.asked))
            self.measured.setdefault(plan.name, {})[seed] = scores

    def _load(self, recipe: Recipe) -> Loaded:
        base = self.base if recipe is self.recipe else base_of(recipe.model, self.folder)
        return one_after_the_other(
            lambda: load_model(recipe, base=base, allow_imports=self.allow_imports, note=self.told.note)
        )

    def _elsewhere(self, plan: Plan, model: nn.Module, seed: int) -> Start | None:
        """The start of a plan that begins at other weights than the recipe's; None for all others."""
        if plan.pretrained is None:
            return None
        torch.manual_seed(seed)
        place = f"baselines.{plan.name}.pretrained"
        return start_elsewhere(self.recipe, plan.pretrained, model, self._load, place)

    def _train(self, plan: Plan, trained: Trained, roles: Roles, seed: int, home: Path) -> None:
        outcomes = []
        folders = [home / self.folders[plan.name, number] for number in range(len(plan.stages))]
        if self._in_sequence(plan):
            ends = [home / BEFORE, *folders[:-1], home / plan.name]
            names = (BEFORE, *(stage.name for stage in plan.stages))
            self.staged.setdefault(plan.name, {})[seed] = [(n, e / SCORES) for n, e in zip(names, ends, strict=True)]
        for number, (stage, folder) in enumerate(zip(plan.stages, folders, strict=True)):
            label = f"{plan.label}: {stage.name}" if stage.name != plan.label else plan.label
            self._tell(label, seed)
            outcome = run_stage(
                stage,
                plan.places[number],
                trained,
                roles,
                seed=seed,
                folder=folder,
                on_step=partial(self.told.progress, label),
                allow_imports=self.allow_imports,
            )
            outcomes.append(outcome)
            watched = agreed(partial(watched_in, folder))
            self.watched.setdefault(plan.name, {}).setdefault(seed, []).append(watched)
            if self._in_sequence(plan) and number + 1 < len(plan.stages):
                self._tell(f"{label}: audits", seed)
                self._audit(trained, roles, folder / SCORES, seed)
            self.curves.extend(_curves(plan.name, stage.name, outcome, len(plan.stages)))
        self.costs.setdefault(plan.name, []).append(Outcome.joined(outcomes))

    def _trained_on(self) -> set[str]:
        """The roles of all terms."""
        return {r for plan in self.plans for stage in plan.stages for term in stage.objective for r in _on(term)}

    def _encode(self, roles: Roles) -> None:
        """Encodes all that will be trained on now, so that a bad row ends the run before an hour of training."""
        named = self._trained_on()
        for role in (r for r in (*roles.rows, *roles.answers) if r in named):
            with explaining(f"roles.{role}"):
                if role in roles.rows:
                    roles[role]
                else:
                    paired = roles.answers[role]
                    for row in paired.trials(self.rows[paired.to][0]):
                        roles.adapter.encode(row, f"{paired.to} row 1 with an answer")

    def _audit(self, trained: Trained, roles: Roles, file: Path, seed: int) -> None:
        """All audits of one model; each is kept in ``file`` as soon as it is done, and not asked again.

        Nothing else keeps it: a sequence measures every task after every stage.
        """
        done = agreed(partial(measured_in, file, self.asked))
        with ExitStack() as stack:
            for intervention in trained.interventions:
                with explaining(type(intervention).__name__):
                    stack.enter_context(intervention.attach(trained.model, trained.companions))
            own = roles.adapter.subject(trained.model)
            subject = shared(own)
            for role, audits in self.audits.items():
                for name, audit in zip(audit_names(self.recipe.audits[role]), audits, strict=True):
                    if (role, name) in done:
                        continue
                    if isinstance(own, Telling):
                        own.told = _Questions(self.told, f"{role}/{name}")
                    torch.manual_seed(seed)  # an audit's figure must not depend on the audits before it
                    with explaining(f"audits.{role}.{name}"):
                        scores = checked_scores(audit(subject, self.rows, role), audit, self.rows[role], role)
                    scores = dataclasses.replace(scores, name=name, role=role)
                    agreed(partial(add_scores, file, scores, self.asked[role, name]))

    def report(self) -> Report:
        """Everything measured, as a report, which is written too."""
        report = build_report(
            self.recipe.title or self.recipe.name,
            self.measured,
            [self._summary(plan) for plan in self.plans],
            over_seeds(self.curves),
            self.recipe.expect,
            to_yaml(self.recipe),
            environment() | commits_of(self.out),
            {(role, key): row for role in self.recipe.audits for key, row in _by_id(role, self.rows[role]).items()},
            warnings=self.cautions,
            matrices=stage_matrices(
                self.staged, self.recipe.tasks, self.watched, asked=self.asked, chance=self.recipe.chance
            ),
        )
        (self.out / "report.html").unlink(missing_ok=True)  # the page of an earlier report, judged otherwise
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
