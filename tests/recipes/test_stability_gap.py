"""The recipe of the stability gap: what its arms share, what the selection keeps, and, made short, that it runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from palimpsest import names
from palimpsest.recipe import Recipe
from palimpsest.recipe_source import load_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import run
from palimpsest.shared_rows import refuse_shared_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "stability-gap.yaml"
ARMS = ("subset", "good subset", "mixture")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPE)


def test_every_arm_makes_as_many_steps_of_as_many_rows(recipe: Recipe) -> None:
    plain = recipe.stages[1]
    rows = plain.train["batch"] * len(plain.objective)
    for label in ARMS:
        (stage,) = recipe.variants[label]
        assert stage.train["steps"] == plain.train["steps"] and stage.train["batch"] * len(stage.objective) == rows
        assert (stage.train["lr"], stage.train["schedule"]) == (plain.train["lr"], plain.train["schedule"])
        assert stage.watch == plain.watch
    weights = [term["weight"] for term in recipe.variants["mixture"][0].objective]
    assert weights == [0.82, 0.18]


def test_the_good_subset_is_good_and_the_sizes_are_a_fifth(recipe: Recipe) -> None:
    rows = load_roles(recipe)[0]
    refuse_shared_rows(recipe, rows)
    corpus = rows["corpus"]
    assert len({row["subject"] for role in ("general", "known", "new") for row in rows[role]}) == 48
    chosen = names.build(recipe.variants["good subset"][0].select["corpus"], "selectors")(corpus)
    kept = [corpus[i]["id"] for i in chosen.index.tolist()]
    assert all("/article" in name for name in kept)
    random = names.build(recipe.variants["subset"][0].select["corpus"], "selectors")(corpus)
    assert len(random.index) == len(corpus) // 5 and abs(len(kept) - len(corpus) / 5) < 0.02 * len(corpus)
    steps = recipe.stages[1].train["steps"] * recipe.stages[1].train["batch"]
    assert steps == len(corpus), "all of it once, or a fifth five times"


def test_a_larger_model_needs_another_rate_alone() -> None:
    places = ["stages.1", *(f"variants.{label}" for label in ARMS)]
    rates = ["stages.0.train.lr=1e-4", *(f"{place}.train.lr=3e-5" for place in places)]
    found = load_recipe(RECIPE, ["model.pretrained=smollm2-135m", *rates])
    assert found.model.pretrained == "smollm2-135m"
    assert {found.variants[label][0].train["lr"] for label in ARMS} == {3e-5}
    assert all(part in RECIPE.read_text(encoding="utf-8") for part in ("model.pretrained=smollm2-135m", rates[0]))


def test_it_runs(recipe: Recipe, tmp_path: Path) -> None:
    def short(stage):
        watch = stage.watch and dataclasses.replace(stage.watch, every=2)
        return dataclasses.replace(stage, train={**stage.train, "steps": 4}, watch=watch)

    few = {r: {**s, "people": 2} for r, s in recipe.roles.items() if isinstance(s, dict)}
    small = dataclasses.replace(recipe, roles={**recipe.roles, **few}, seeds=[0], stages=[*map(short, recipe.stages)])
    variants = {label: [short(own[0])] for label, own in recipe.variants.items()}
    variants["subset"][0].select["corpus"] = {"reservoir": {"size": 8}}
    for label in ("good subset", "mixture"):
        variants[label][0].select["corpus"] = {"quality_subset": {"words": 900}}
    report = run(dataclasses.replace(small, variants=variants), tmp_path / "run")
    assert {m.run for m in report.matrices} == {"after", *ARMS}
    figures = {f.name for f in report.matrices[0].figures}
    assert {"gap_depth (every 2 steps)", "share_recovered (every 2 steps)"} <= figures
    tokens = {run.label: run.tokens for run in report.runs if run.label != "before"}
    assert max(tokens.values()) < 1.3 * min(tokens.values())
