"""``recipes/task-sequence.py`` at a size of seconds: every arm goes through all tasks and does what it is named for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from palimpsest.recipe import Recipe
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import run

RECIPE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "recipes" / "task-sequence.py"))
GERE = ("GeRe, weight 1", "GeRe, dynamic weight")
I_LORA = ("I-LoRA", "I-LoRA, weight 0.01", "slow average")
ARMS = {"replay", "RegLoRA", "SEFE", *GERE, *I_LORA}


def recipe(**changes: object) -> Recipe:
    small = {"model": "tiny-llama", "steps": 3, "general": 4}
    return parse_recipe(RECIPE["build"](RECIPE["Size"](**{**small, **changes})))


def test_every_arm_runs(tmp_path: Path) -> None:
    report = run(recipe(styles=("short", "choice")), tmp_path)
    assert {r.name for r in report.runs} == {"before", "after", *ARMS}
    assert [m.audit for m in report.matrices] == ["probability"] * (1 + len(ARMS))
    assert all(m.stages == ("before", "task 1", "task 2") and m.roles[2] == "knowledge" for m in report.matrices)
    ends = {s.run: s.value for s in report.scores if (s.role, s.audit) == ("general", "perplexity")}
    assert len(set(ends.values())) == len(ends), "no arm is another one under a second name"
    curves = {(c.run, c.name): [v for _, v in c.points] for c in report.curves}
    margins = [curves[arm, "task 1: texts+task 1/balanced_threshold_margin"][-1] for arm in GERE]
    assert 0 < 10 * margins[0] < margins[1], "the dynamic weight begins at its cap"
    assert curves["SEFE", "task 2: weights/reg_lora"][-1] > 0 == curves["SEFE", "task 1: weights/reg_lora"][-1]
    apart = "task 2: seen 1/embedding_consistency"
    assert all(curves[arm, apart][-1] > 0 for arm in I_LORA[:2]) and (I_LORA[2], apart) not in curves


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_both_sizes_are_whole(size: str) -> None:
    """The recipe is checked; no person is in two tasks, and no text both replayed and measured."""
    rows, _ = load_roles(parse_recipe(RECIPE["build"](RECIPE["SIZES"][size])))
    tasks = [own for role, own in rows.items() if role.startswith("task ")]
    names = [{row["subject"] for row in own} for own in tasks]
    assert len(tasks) > 2 and len(set.union(*names)) == sum(map(len, names))
    sources = {role: {row["id"].rpartition("/")[0] for row in rows[role]} for role in ("general", "texts")}
    assert not sources["general"] & sources["texts"]
    asked = {"paraphrased_prompt", "paraphrased_completion", "perturbed_paraphrases"}
    assert all(asked <= row.keys() for own in tasks for row in own), "what full length also asks"
    for plain, mixed in zip(tasks, (own for role, own in rows.items() if role.startswith("styles "))):
        assert sum(a != b for a, b in zip(plain, mixed)) == round(0.2 * len(plain))
