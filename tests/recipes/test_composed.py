"""``recipes/composed.yaml``, cut short: every one of its four parts acts, and none in the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from palimpsest.checkpoint import read_tensors
from palimpsest.recipe_source import load_recipe
from palimpsest.report import Report
from palimpsest.run import run

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "composed.yaml"
STEPS = {0: 30, 1: 12, 2: 12, 3: 4}
Curves = dict[str, list[float]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    shorter = [f"stages.{stage}.train.steps={steps}" for stage, steps in STEPS.items()]
    folder = tmp_path_factory.mktemp("composed") / "out"
    return run(load_recipe(RECIPE, [*shorter, "variants={}"]), folder), folder


@pytest.fixture(scope="module")
def curves(done: tuple[Report, Path]) -> Curves:
    return {curve.name: [value for _, value in curve.points] for curve in done[0].curves if curve.run == "after"}


@pytest.mark.parametrize("stage", ["first", "second"])
def test_the_margin_begins_at_the_states_before_any_task(curves: Curves, stage: str) -> None:
    margin = curves[f"{stage}: known/threshold_margin"]
    assert margin[-1] > 1e-3
    assert (margin[0] < 1e-6) == (stage == "first"), "the second stage is held to the states before the first"


def test_the_penalty_begins_with_the_second_adapter(curves: Curves) -> None:
    assert set(curves["first: weights/reg_lora"]) == {0.0}
    second = curves["second: weights/reg_lora"]
    assert second[0] == 0.0 < second[-1], "its own B begins at 0; positions of the first are counted"


def test_each_task_is_warmed_up_again(curves: Curves) -> None:
    """The rate of a first step is 0, so that the second step still sees the model of before."""
    margin, penalty = curves["first: known/threshold_margin"], curves["second: weights/reg_lora"]
    assert max(margin[:2]) < 1e-6 < 1e-3 < margin[3]
    assert penalty[1] == 0.0 < penalty[2], "with a rate from the start, B would have moved in the first step"


def test_the_last_stage_moves_the_norms_and_nothing_else(done: tuple[Report, Path]) -> None:
    folder = done[1] / "seed-0" / "after"
    before, after = (read_tensors(folder / name / "model.safetensors")[0] for name in ("1-second", "2-tune the norms"))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in after if "norm" in name}


def test_the_matrix_has_all_three_stages(done: tuple[Report, Path]) -> None:
    (matrix,) = done[0].matrices
    assert matrix.stages == ("before", "first", "second", "tune the norms") and matrix.roles[:2] == ("first", "second")
