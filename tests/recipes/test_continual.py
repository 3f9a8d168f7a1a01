"""Continual learning as recipes: a buffer under ``select``, k-FPF, EWC from stage to stage, and PRD on two views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run

TRAIN = {"steps": 4, "batch": 16, "lr": 0.05, "optimizer": "sgd"}
FIRST = {"name": "first", "objective": [{"on": "task1", "cross_entropy": {}}], "train": TRAIN}
VIEWS = ["one", "two"]


def stage(*objective: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "second", "objective": list(objective), "train": TRAIN, **more}


def prd(name: str, *views: str) -> dict[str, Any]:
    terms = [{"on": list(views), "supervised_contrastive": {"width": 8}}]
    terms += [{"on": list(views), "prototype_relation": {"head": "head"}}]
    return {"name": name, "objective": terms, "train": TRAIN}


TASK2, REPLAY = {"on": "task2", "cross_entropy": {}}, {"on": "replay", "cross_entropy": {}}
EWC = {"on": "weights", "elastic_weight_consolidation": {"of": "task1", "rows": 20}, "weight": 10.0}
LWF = {"on": "task2", "learning_without_forgetting": {"classes": [0, 1]}}
STAGES = {
    "replay": [FIRST, stage(TASK2, REPLAY, select={"replay": {"reservoir": {"size": 20}}})],
    "a-gem": [FIRST, stage(TASK2, REPLAY, combine={"one_sided_projection": {"protect": "replay", "follow": False}})],
    "gem": [
        FIRST,
        stage(
            *(TASK2, {"on": "task1", "cross_entropy": {}}, REPLAY),
            combine={"cone_projection": {"protect": ["task1", "replay"], "margin": 0.0}},
        ),
    ],
    "a head for each task": [
        FIRST,
        stage({"on": "task2", "task_cross_entropy": {}}, {"on": "task1", "task_cross_entropy": {}}),
    ],
    "k-fpf": [FIRST, stage(TASK2, REPLAY, procedure={"k_fpf": {"rounds": 2, "steps": 2, "size": 20}})],
    "fpf": [FIRST, stage(REPLAY, mask={"forgetting_prioritized": {"modules": ["normalization", "last"]}})],
    "ewc and lwf": [FIRST, stage(TASK2, EWC, LWF)],
    "dark experience": [FIRST, stage(TASK2, {"on": "replay", "dark_experience": {}})],
    "prd": [prd("first", "before_one", "before_two"), prd("second", *VIEWS)],
}


@pytest.mark.parametrize("name", STAGES)
def test_a_second_task(name: str, tmp_path: Path) -> None:
    change = {"shift": 1, "noise": 0.1}
    raw = {
        "model": {"pretrained": "digits-cnn", "adapter": "classifier"},
        "roles": {
            "task1": {"zoo": "digits", "classes": [0, 1]},
            "task2": {"zoo": "digits", "classes": [2, 3], "rotate": 90},
            "replay": ["task1"],
            "before_one": {"augment": change, "of": "task1"},
            "before_two": {"augment": change, "of": "task1"},
            "one": {"augment": change, "of": "task2"},
            "two": {"augment": change, "of": "task2"},
            "test": {"zoo": "digits", "part": "test", "classes": [0, 1]},
        },
        "stages": STAGES[name],
        "audits": {"test": ["accuracy", "task_accuracy"]},
    }
    report = run(parse_recipe(raw), tmp_path / "out")
    after = next(r for r in report.runs if r.name == "after")
    assert after.steps == (8 if name == "k-fpf" else 4)
    found = {s.audit: s.value for s in report.scores if s.run == "after"}
    assert found["task_accuracy"] >= found["accuracy"]


def test_a_procedure_does_not_take_the_trainer() -> None:
    """It would train in the plain loop without saying so."""
    own = stage(TASK2, REPLAY, procedure="k_fpf")
    raw = {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {"task2": {"zoo": "digits", "classes": [2, 3]}, "replay": ["task2"]},
        "stages": [{**own, "train": {**TRAIN, "loop": "trainer"}}],
        "audits": {"task2": ["accuracy"]},
    }
    with pytest.raises(RecipeError, match=r"^stages\.0\.train\.loop: a procedure has .* train\.loop: plain\.$"):
        parse_recipe(raw)
