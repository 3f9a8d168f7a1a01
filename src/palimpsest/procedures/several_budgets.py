"""Keeps the decayed model of every budget of one run, and goes on from it or from where its decay began.

    theta_k = model after step T_k, the last of the decay that ``wsd_s`` puts before it          k = 1 ... K

    WSD-S               theta_1 -> theta_2 -> ... -> theta_K                costs T_K steps
    WSD (``rewind``)    main branch at the peak; theta_k = its end, decayed from step T_k - D_k on;
                        the main branch goes on from there undecayed        costs T_K + D_1 + ... + D_{K-1} steps

Weights, moments and the order of the data are carried on in both.  The weights of budget k are written to
``budget-<T_k>.safetensors`` in the folder of the stage; the model itself ends as theta_K.  From where the main branch
would go on (theta_K, or undecayed from step T_K - D_K) the whole state, moments included, stays in ``main-branch``:
called in the same folder with further budgets, and with the same settings and a warm-up of as many steps, it trains for
these alone.  Its result says what all budgets cost together, in however many calls and lives they came about.

Paper: Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective (Wen et al., 2024),
    arXiv 2410.05192, section 5.
Code: written from the paper.
Tags: optimize, schedule, pre-training.
Needs: ``train.schedule: {wsd_s: {budgets: …}}``, and a folder.
Differs: nothing known. Only what training may change is written: trainable weights and buffers.
See: ``wsd_s`` (the curve), ``wsd``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from palimpsest.checkpoint import latest, moving, read_tensors, write_json, write_tensors
from palimpsest.loop import Progress, Result, Training, fit, steps_of
from palimpsest.objective import Total
from palimpsest.processes import agreed
from palimpsest.reference import Reference
from palimpsest.roles import Roles
from palimpsest.schedules.wsd import WSD
from palimpsest.schedules.wsd_s import WSDS
from palimpsest.step import States

__all__ = ["METHOD", "SeveralBudgets", "budget_file", "main_branch"]


DECAYS = "decays.json"
"""Step of a budget -> what its decay cost: steps, tokens and seconds."""


def budget_file(folder: Path, step: int) -> Path:
    """Where the weights after ``step`` are kept."""
    return folder / f"budget-{step:08d}.safetensors"


def main_branch(folder: Path) -> Path:
    """Where the checkpoint is kept from which the main branch would go on."""
    return folder / "main-branch"


@dataclass(frozen=True)
class Leg:
    """One budget of a run that rewinds: its last step, the step at which its decay begins, and its own schedule."""

    end: int
    branch: int
    schedule: WSD


def steps_of_budgets(schedule: WSDS, steps: int) -> list[int]:
    """The last step of every budget of a run of ``steps``."""
    exact = [steps * budget / schedule.budgets[-1] for budget in schedule.budgets]
    found = [round(step) for step in exact]
    for step, mark, budget in zip(exact, found, schedule.budgets):
        if abs(step - mark) > 1e-6:
            raise ValueError(f"The budget {budget:g} ends between two of {steps} steps; choose steps that it divides.")
    return found


def legs(schedule: WSDS, steps: int) -> list[Leg]:
    """The budgets as runs of their own, equal up to where each of them branches off."""
    if schedule.rewarmup:
        raise ValueError("A run that rewinds never left the peak, so it has no rewarmup; set it to 0.")
    if not 0 < schedule.decay < 0.5:
        raise ValueError(f"A run that rewinds decays for a part below 0.5, not {schedule.decay}; lower decay.")
    found: list[Leg] = []
    for end in steps_of_budgets(schedule, steps):
        since = found[-1].end if found and schedule.of == "cycle" else 0
        decay = schedule.decay * (end - since)
        own = WSD(schedule.warmup * steps / end, decay / end, schedule.floor, schedule.shape)
        found.append(Leg(end, int(end - decay + 1e-9), own))
    if any(leg.branch <= before.branch for before, leg in itertools.pairwise(found)):
        raise ValueError("A budget branches off before the one in front of it does; space the budgets out.")
    return found


@dataclass(frozen=True)
class SeveralBudgets:
    """``rewind`` goes on from where a decay began, as WSD does, and not from its end, as WSD-S does."""

    rewind: bool = False

    def check_training(self, training: Training) -> WSDS:
        """The schedule with the budgets, which must be there; what cannot be rewound is refused."""
        schedule = training.schedule
        if not isinstance(schedule, WSDS):
            raise ValueError("several_budgets takes its budgets from train.schedule; write {wsd_s: {budgets: …}}.")
        if training.loop != "plain":
            raise ValueError("several_budgets runs in the plain loop; remove train.loop.")
        if training.steps is not None:
            steps_of_budgets(schedule, training.steps)
            if self.rewind:
                legs(schedule, training.steps)
        return schedule

    def __call__(
        self,
        model: nn.Module,
        roles: Roles,
        objective: Total,
        training: Training,
        *,
        seed: int = 0,
        reference: Reference | None = None,
        folder: Path | None = None,
        on_step: Callable[[Progress], None] | None = None,
        previous: States | None = None,
    ) -> Result:
        """Killed and called again, or with further budgets and the same settings, it goes on to the same weights."""
        schedule = self.check_training(training)
        if folder is None:
            raise ValueError("several_budgets keeps a model for every budget; give it a folder.")
        steps = steps_of(training, roles, objective)
        _claim(folder, {"rewind": self.rewind, "seed": seed, **_settings(training, schedule, steps)})

        def run(own: Training, home: Path, told: Callable[[Progress], None]) -> Result:
            def both(progress: Progress) -> None:
                told(progress)
                if on_step is not None:
                    on_step(progress)

            return fit(
                *(model, roles, objective, own),
                seed=seed,
                reference=reference,
                folder=home,
                on_step=both,
                previous=previous,
                last=not self.rewind,
            )

        if self.rewind:
            return _rewinding(model, training, legs(schedule, steps), folder, run)
        return _going_on(model, training, steps_of_budgets(schedule, steps), folder, run)


Run = Callable[[Training, Path, Callable[[Progress], None]], Result]


def _settings(training: Training, schedule: WSDS, steps: int) -> dict[str, Any]:
    """What the main branch follows from, beside model, objective and rows; an optimizer by its name or its fields."""
    own = {name: getattr(training, name) for name in ("lr", "batch", "weight_decay", "clip", "precision")}
    named = isinstance(training.optimizer, str) or dataclasses.is_dataclass(training.optimizer)
    own["optimizer"] = str(training.optimizer) if named else type(training.optimizer).__name__
    own |= {name: getattr(schedule, name) for name in ("decay", "of", "floor", "shape", "rewarmup")}
    own["warm-up steps"] = round(schedule.warmup * steps, 6)  # a share of more steps may differ in the last bit
    return {**own, "budgets": steps_of_budgets(schedule, steps)}


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keeps the settings of the main branch in ``folder``, or refuses others; budgets may only be added at the end."""
    file = folder / "main-branch.json"
    kept = agreed(lambda: _read(file))
    for name, value in settings.items():
        old = kept.get(name, value)
        if (old[: len(value)] != value[: len(old)]) if name == "budgets" else old != value:
            raise ValueError(
                f"The main branch in {folder} was trained with {name} {old}, not {value}; give it the same, or choose "
                "another folder."
            )
    if len(settings["budgets"]) > len(kept.get("budgets", ())):
        agreed(lambda: write_json(file, dict(settings)))


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _going_on(model: nn.Module, training: Training, ends: list[int], folder: Path, run: Run) -> Result:
    """WSD-S: one run, of which the weights after each budget are written down."""
    agreed(lambda: _taken_up(folder, ends))
    agreed(lambda: _caught_up(folder, ends))

    def keep(progress: Progress) -> None:
        if progress.step in ends:
            agreed(lambda: write_tensors(budget_file(folder, progress.step), moving(model)))

    result = run(training, folder, keep)
    agreed(lambda: _put_away(folder / f"step-{ends[-1]:08d}", main_branch(folder)))
    return result


def _put_away(checkpoint: Path, home: Path) -> None:
    """Moves a checkpoint there, as the only one."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.replace(checkpoint, home / checkpoint.name)


def _taken_up(folder: Path, ends: list[int]) -> None:
    """Puts the end of a run of fewer budgets, or of this one, where this one looks for its last checkpoint."""
    before = latest(main_branch(folder))
    if before is not None and before.step in ends and latest(folder) is None:
        temporary = folder / f".{before.folder.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(before.folder, temporary)
        os.replace(temporary, folder / before.folder.name)


def _caught_up(folder: Path, ends: list[int]) -> None:
    """Writes the weights of a budget at whose last step a run was killed before it could."""
    last = latest(folder)
    if last is not None and last.step in ends and not budget_file(folder, last.step).exists():
        write_tensors(budget_file(folder, last.step), read_tensors(last.folder / "model.safetensors")[0])


def _rewinding(model: nn.Module, training: Training, found: list[Leg], folder: Path, run: Run) -> Result:
    """WSD: a run a budget; each starts from the checkpoint at which the one before branched off."""
    before = latest(main_branch(folder))
    for number, leg in enumerate(found):  # of a run of fewer budgets, or of this one, which then decays once more
        start = folder / f"leg-{number if leg is found[-1] else number + 1}"
        if before is not None and before.step == leg.branch and budget_file(folder, leg.end).exists():
            agreed(lambda start=start: _handed_on(before.folder, start))  # type: ignore[misc]
    for number, leg in enumerate(found):
        home = folder / f"leg-{number}"
        following = main_branch(folder) if leg is found[-1] else folder / f"leg-{number + 1}"
        at_start = latest(home)

        def branch(step: int, home: Path = home, following: Path = following, leg: Leg = leg) -> None:
            if step == leg.branch:
                agreed(lambda: _handed_on(home / f"step-{step:08d}", following))

        branch(at_start.step if at_start is not None else -1)  # killed between a checkpoint and its copy
        if leg is not found[-1] and budget_file(folder, leg.end).exists():
            continue
        own = dataclasses.replace(
            training, epochs=None, steps=leg.end, schedule=leg.schedule, checkpoint_every=leg.branch
        )
        # A step is reported before its checkpoint is written, so what was branched at is there one step later.
        result = run(own, home, lambda progress, branch=branch: branch(progress.step - 1))  # type: ignore[misc]
        agreed(partial(_finish, folder, model, leg, following, result))
    for old in folder.glob("leg-*"):
        shutil.rmtree(old, ignore_errors=True)
    return _with_decays(result, folder, found[:-1])


def _finish(folder: Path, model: nn.Module, leg: Leg, following: Path, result: Result) -> None:
    """Writes down what the decay of a budget cost since it branched off, then the budget's weights."""
    start = latest(following)
    assert start is not None
    spent = {
        "steps": leg.end - start.step,
        "tokens": result.tokens - start.extra["tokens"],
        "seconds": result.seconds - start.extra["seconds"],
    }
    write_json(folder / DECAYS, {**_read(folder / DECAYS), str(leg.end): spent})
    write_tensors(budget_file(folder, leg.end), moving(model))


def _with_decays(last: Result, folder: Path, thrown_away: list[Leg]) -> Result:
    """The cost of the last budget, with that of the decays from which nothing went on.

    As everywhere, it is what one life would have spent: steps that a kill lost and that were taken again count once.
    """
    known = agreed(lambda: _read(folder / DECAYS))
    spent = [known[str(leg.end)] for leg in thrown_away]
    return dataclasses.replace(
        last,
        steps=last.steps + sum(own["steps"] for own in spent),
        tokens=last.tokens + sum(own["tokens"] for own in spent),
        seconds=last.seconds + sum(own["seconds"] for own in spent),
    )


def _handed_on(checkpoint: Path, following: Path) -> None:
    """A copy of ``checkpoint`` as the only one in the folder ``following``, unless that or a later one is there."""
    there = latest(following)
    if there is not None and there.folder.name >= checkpoint.name:
        return
    temporary = following.with_name(f".{following.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoint, temporary / checkpoint.name)
    shutil.rmtree(following, ignore_errors=True)
    os.replace(temporary, following)


METHOD = SeveralBudgets
