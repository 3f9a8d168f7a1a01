"""The recipe of doses: what it says, and, made short, that it runs and that its arms differ in the dose alone."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest

from palimpsest import names
from palimpsest.recipe import Recipe
from palimpsest.recipe_source import load_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import run

RECIPE = Path(__file__).parents[2] / "recipes" / "brain-rot.yaml"
DOSES = {"dose 0": 0.0, "dose 0.2": 0.2, "dose 0.5": 0.5, "dose 0.8": 0.8, "dose 1": 1.0}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPE)


def test_the_doses_differ_in_the_dose_alone(recipe: Recipe) -> None:
    tuning, control = recipe.stages[-1], recipe.variants["dose 0"][0]
    for label, dose in DOSES.items():
        first, last = recipe.variants[label]
        assert first.select == {"feed": {"junk": {"by": "label", "dose": dose}}}
        assert (first.train, first.objective) == (control.train, control.objective)
        assert (last.objective, last.train) == (tuning.objective, tuning.train)


def test_every_dose_has_as_many_blocks_and_the_smaller_is_part_of_the_larger(recipe: Recipe) -> None:
    feed = load_roles(recipe)[0]["feed"]
    before: set[int] = set()
    for label in DOSES:
        chosen = names.build(recipe.variants[label][0].select["feed"], "selectors")(feed)
        junk = {i for i in chosen.index.tolist() if chosen.score[i] > 0}
        assert len(chosen.index) == 50 and len(junk) == 50 * DOSES[label] and before <= junk
        before = junk


def test_the_healing_arms_begin_with_the_whole_dose(recipe: Recipe) -> None:
    for label in ("dose 1, four times the tuning", "dose 1, then control text"):
        assert recipe.variants[label][0] == recipe.variants["dose 1"][0]
    assert recipe.variants["dose 1, four times the tuning"][1].train["steps"] == 4 * recipe.stages[-1].train["steps"]


def test_the_three_definitions_of_junk_differ_in_the_feed_alone(recipe: Recipe) -> None:
    """Each has the arms of the recipe; what heals is tried on the first."""
    study = runpy.run_path(str(RECIPE.with_name("brain-rot-doses.py")))["recipe"]()
    parts = {name: study.roles[f"{name} feed"]["part"] for name in ("popular and short", "called junk", "short prose")}
    assert list(parts.values()) == ["engagement", "quality", "length"]
    assert study.stages == recipe.stages and study.audits == recipe.audits and study.seeds == [0, 1, 2]
    healed = {f"popular and short: {arm}" for arm in recipe.variants}
    assert set(study.variants) == healed | {f"{name}: {dose}" for name in parts for dose in DOSES}
    for label, stages in study.variants.items():
        name, arm = label.split(": ")
        for own, plain in zip(stages, recipe.variants[arm], strict=True):
            assert own.train == plain.train and own.name == plain.name
            assert own.select == {f"{name} feed": spec for spec in plain.select.values()}
            assert [t["on"] for t in own.objective] == [
                f"{name} feed" if t["on"] == "feed" else t["on"] for t in plain.objective
            ]


def test_it_runs(tmp_path: Path) -> None:
    rows = [f"roles.{role}.rows={n}" for role, n in {"prose": 40, "notes": 4, "facts": 4, "sums": 2}.items()]
    short = load_recipe(RECIPE, ["stages.0.train.steps=4", *rows])
    some = {k: v for k, v in short.variants.items() if k in ("dose 0", "dose 0.2", "dose 1, then control text")}
    report = run(dataclasses.replace(short, variants=some), tmp_path / "run")
    assert {r.label: r.steps for r in report.runs if r.label in some} == dict(zip(some, (28, 28, 48)))
    assert len({(s.run, s.role, s.audit) for s in report.scores}) == (2 + len(some)) * 4
