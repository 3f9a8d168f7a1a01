"""A model for every budget of one run: what is kept, where the main branch goes on, and runs that are killed."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.checkpoint import read_tensors
from palimpsest.loop import Interrupted, Progress, Training, fit
from palimpsest.objective import Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.several_budgets import (
    SeveralBudgets,
    budget_file,
    legs,
    main_branch,
    steps_of_budgets,
)
from palimpsest.roles import Roles
from palimpsest.schedules.cosine import Cosine
from palimpsest.schedules.wsd import WSD
from palimpsest.schedules.wsd_s import WSDS

BUDGETS = (10, 20, 40)
SCHEDULE = WSDS(BUDGETS, warmup=0.05, decay=0.2)
TRAINING = Training(steps=40, batch=4, lr=0.02, schedule=SCHEDULE)
LOSS = Total((on("task", CrossEntropy()),))


def fresh() -> tuple[nn.Module, Roles]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    rows = [{"inputs": [float(i % 5), float(i % 3), float(i % 2)], "label": i % 3} for i in range(60)]
    return model, Roles(Classifier(3), {"task": rows})


def kept(folder: Path) -> dict[int, dict[str, Tensor]]:
    return {end: read_tensors(budget_file(folder, end))[0] for end in BUDGETS}


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def run(folder: Path, rewind: bool, **options: Any) -> tuple[nn.Module, Any]:
    model, roles = fresh()
    return model, SeveralBudgets(rewind)(model, roles, LOSS, TRAINING, seed=3, folder=folder, **options)


def test_going_on_is_one_run_and_keeps_what_it_had_after_each_budget(tmp_path: Path) -> None:
    model, result = run(tmp_path, rewind=False)
    plain, roles = fresh()
    seen = {}

    def look(progress: Progress) -> None:
        seen[progress.step] = copy.deepcopy(plain.state_dict())

    fit(plain, roles, LOSS, TRAINING, seed=3, on_step=look)
    assert all(same(weights, seen[end]) for end, weights in kept(tmp_path).items())
    assert same(model.state_dict(), seen[40]) and result.steps == 40


def test_rewinding_is_a_run_for_each_budget_and_pays_for_its_branches_once(tmp_path: Path) -> None:
    """Every budget is what a run of that length alone gives, since all of them are equal before their decays."""
    model, result = run(tmp_path, rewind=True)
    for end, weights in kept(tmp_path).items():
        alone, roles = fresh()
        schedule = WSD(2 / end, 0.2)
        fit(alone, roles, LOSS, dataclasses.replace(TRAINING, steps=end, schedule=schedule), seed=3)
        assert same(weights, alone.state_dict())
    assert same(model.state_dict(), kept(tmp_path)[40])
    assert result.steps == 40 + 2 + 4 and result.tokens == 4 * 46
    assert not list(tmp_path.glob("leg-*"))


def test_the_two_differ_only_after_the_first_decay(tmp_path: Path) -> None:
    run(tmp_path / "on", rewind=False)
    run(tmp_path / "back", rewind=True)
    one, other = kept(tmp_path / "on"), kept(tmp_path / "back")
    assert same(one[10], other[10]) and not same(one[20], other[20])


@pytest.mark.parametrize("rewind", [False, True])
@pytest.mark.parametrize("after", [5, 8, 9, 10, 17, 32, 39])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, rewind: bool, after: int) -> None:
    run(tmp_path / "whole", rewind)
    left = [after]

    def kill(progress: Progress) -> None:
        if left and progress.step == left[0]:
            left.pop()
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(tmp_path / "killed", rewind, on_step=kill)
    _, result = run(tmp_path / "killed", rewind)
    one, other = kept(tmp_path / "whole"), kept(tmp_path / "killed")
    assert all(same(one[end], other[end]) for end in BUDGETS)
    assert (result.steps, result.tokens) == ((46, 4 * 46) if rewind else (40, 4 * 40)), "as in one life"


def test_the_seconds_of_earlier_lives_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves by a second with every step, each step counts once, whoever took it."""
    now = [0.0]
    monkeypatch.setattr("palimpsest.loop.time.perf_counter", lambda: now[0])

    def tick(progress: Progress, until: int = 40) -> None:
        now[0] += 1.0
        if progress.step == until:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(tmp_path, rewind=True, on_step=lambda progress: tick(progress, 17))
    now[0] += 1000.0
    _, result = run(tmp_path, rewind=True, on_step=lambda progress: tick(progress, 41))
    assert result.seconds == 46.0


@pytest.mark.parametrize(("rewind", "again"), [(False, 0), (True, 8)])
def test_a_run_killed_after_its_last_step_does_not_begin_again(tmp_path: Path, rewind: bool, again: int) -> None:
    """As where the disk is full when its stage is to be kept; a run that rewinds repeats its last decay."""
    whole, _ = run(tmp_path, rewind)
    weights, seen = kept(tmp_path), list[int]()
    model, _ = run(tmp_path, rewind, on_step=lambda progress: seen.append(progress.step))
    assert len(seen) == again and same(model.state_dict(), whole.state_dict())
    assert all(same(kept(tmp_path)[end], weights[end]) for end in BUDGETS)
    assert [p.name for p in main_branch(tmp_path).iterdir()] == [f"step-{32 if rewind else 40:08d}"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".", "leg-", "step-"))]


@pytest.mark.parametrize(("rewind", "branch"), [(False, 20), (True, 16)])
@pytest.mark.parametrize("after", [None, 25, 33])
def test_further_budgets_go_on_from_where_the_main_branch_stood(
    tmp_path: Path, rewind: bool, branch: int, after: int | None
) -> None:
    """With its moments, on any model: what was learned before comes from the folder. Also if that run is killed."""
    folder, seen = tmp_path / "grown", list[int]()
    fewer = dataclasses.replace(TRAINING, steps=20, schedule=WSDS(BUDGETS[:2], warmup=0.1, decay=0.2))
    model, roles = fresh()
    SeveralBudgets(rewind)(model, roles, LOSS, fewer, seed=3, folder=folder)
    assert [p.name for p in main_branch(folder).iterdir()] == [f"step-{branch:08d}"]

    def look(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step == after and after not in seen[:-1]:
            raise KeyboardInterrupt

    if after is not None:
        with pytest.raises(Interrupted):
            run(folder, rewind, on_step=look)
    _, result = run(folder, rewind, on_step=look)
    assert (result.steps, result.tokens) == ((46, 4 * 46) if rewind else (40, 4 * 40)), "what all budgets cost"
    assert seen[0] == branch + 1 and len(seen) == 40 - branch
    run(tmp_path / "whole", rewind)
    one, other = kept(tmp_path / "whole"), kept(folder)
    assert all(same(one[end], other[end]) for end in BUDGETS)
    assert [p.name for p in main_branch(folder).iterdir()] == [f"step-{32 if rewind else 40:08d}"]
    assert not [p for p in folder.iterdir() if p.name.startswith((".", "leg-", "step-"))]


@pytest.mark.parametrize("rewind", [False, True])
@pytest.mark.parametrize(
    ("training", "schedule", "message"),
    [
        ({"lr": 0.01}, {}, r"trained with lr 0\.02, not 0\.01; give it the same, or choose another folder"),
        ({"weight_decay": 0.1}, {}, r"with weight_decay 0\.0, not 0\.1"),
        ({"optimizer": "sgd"}, {}, r"with optimizer adamw, not sgd"),
        ({}, {"warmup": 0.1}, r"with warm-up steps 2\.0, not 4\.0"),
        ({}, {"decay": 0.1}, r"with decay 0\.2, not 0\.1"),
        ({}, {"budgets": (20, 40)}, r"with budgets \[10, 20\], not \[20, 40\]"),
    ],
)
def test_further_budgets_go_on_with_the_same_settings(
    tmp_path: Path, rewind: bool, training: dict[str, Any], schedule: dict[str, Any], message: str
) -> None:
    """Others would give models that no single run gives; the folder is left as it was."""
    fewer = dataclasses.replace(TRAINING, steps=20, schedule=WSDS(BUDGETS[:2], warmup=0.1, decay=0.2))
    model, roles = fresh()
    SeveralBudgets(rewind)(model, roles, LOSS, fewer, seed=3, folder=tmp_path)
    own = dataclasses.replace(TRAINING, schedule=dataclasses.replace(SCHEDULE, **schedule), **training)
    with pytest.raises(ValueError, match=message):
        SeveralBudgets(rewind)(model, roles, LOSS, own, seed=3, folder=tmp_path)
    with pytest.raises(ValueError, match="trained with rewind"):
        SeveralBudgets(not rewind)(model, roles, LOSS, TRAINING, seed=3, folder=tmp_path)
    with pytest.raises(ValueError, match="trained with seed 3, not 4"):
        SeveralBudgets(rewind)(model, roles, LOSS, TRAINING, seed=4, folder=tmp_path)
    model, _ = run(tmp_path, rewind)
    whole, _ = run(tmp_path / "whole", rewind)
    assert same(model.state_dict(), whole.state_dict())


def test_steps_of_budgets() -> None:
    assert steps_of_budgets(WSDS((0.25, 0.5, 1.0)), 80) == [20, 40, 80]
    assert [(leg.end, leg.branch) for leg in legs(WSDS((10, 20), decay=0.15), 20)] == [(10, 8), (20, 17)]
    assert [(leg.end, leg.branch) for leg in legs(WSDS((10, 30), decay=0.2, of="cycle"), 30)] == [(10, 8), (30, 26)]


@pytest.mark.parametrize(
    ("training", "rewind", "message"),
    [
        ({"schedule": Cosine()}, False, r"train\.schedule; write \{wsd_s"),
        ({"loop": "trainer"}, False, r"plain loop"),
        ({"steps": 30}, False, r"ends between two of 30 steps"),
        ({"schedule": WSDS((20, 40), rewarmup=0.1)}, True, r"no rewarmup; set it to 0"),
        ({"schedule": WSDS((20, 40), decay=0.5, warmup=0.0)}, True, r"below 0\.5"),
    ],
)
def test_bad_settings_are_refused(training: dict[str, Any], rewind: bool, message: str, tmp_path: Path) -> None:
    model, roles = fresh()
    own = dataclasses.replace(TRAINING, **training)
    with pytest.raises(ValueError, match=message):
        SeveralBudgets(rewind)(model, roles, LOSS, own, folder=tmp_path)


def test_it_asks_for_a_folder() -> None:
    model, roles = fresh()
    with pytest.raises(ValueError, match="give it a folder"):
        SeveralBudgets()(model, roles, LOSS, TRAINING)
