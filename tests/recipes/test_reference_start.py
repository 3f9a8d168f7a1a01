"""``reference: start``: the model before the first stage of a run stays the reference of all its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run

TRAIN = {"steps": 4, "batch": 16, "lr": 3e-3}


def raw(reference: str, **more: Any) -> dict[str, Any]:
    """Two tasks after a first stage, each held to what the reference says of them."""

    def stage(name: str) -> dict[str, Any]:
        terms = [{"on": name, "cross_entropy": {}}, {"on": "seen", "kl_to_reference": {}}]
        return {"name": name, "objective": terms, "train": TRAIN, "reference": reference, **more}

    return {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {
            "known": {"zoo": "digits", "classes": [0, 1, 2]},
            "one": {"zoo": "digits", "classes": [3, 4]},
            "two": {"zoo": "digits", "classes": [5, 6]},
            "seen": ["one", "two"],
            "test one": {"zoo": "digits", "part": "test", "classes": [3, 4]},
            "test two": {"zoo": "digits", "part": "test", "classes": [5, 6]},
        },
        "stages": [
            {"name": "before", "objective": [{"on": "known", "cross_entropy": {}}], "train": TRAIN},
            stage("one"),
            stage("two"),
        ],
        "tasks": {"one": "test one", "two": "test two"},
        "audits": {"test one": ["accuracy"], "test two": ["accuracy"]},
    }


def first_values(reference: str, folder: Path) -> list[float]:
    """What the term is at the first step of each of the two stages."""
    curves = {c.name: c.points for c in run(parse_recipe(raw(reference)), folder).curves if c.run == "after"}
    return [curves[f"{name}: seen/kl_to_reference"][0][1] for name in ("one", "two")]


def test_the_second_stage_is_held_to_the_model_before_the_first(tmp_path: Path) -> None:
    kept, refreshed = first_values("start", tmp_path / "start"), first_values("copy", tmp_path / "copy")
    assert kept[0] == pytest.approx(0, abs=1e-6) and refreshed == pytest.approx([0, 0], abs=1e-6)
    assert kept[1] > 0.01


def test_under_an_adapter_too(tmp_path: Path) -> None:
    """It is taken before the stage's adapter is there, and has none."""
    from palimpsest.zoo.models import tiny_llama

    for part in tiny_llama(300, 2, 32):
        part.save_pretrained(tmp_path / "model")
    terms = [{"on": "task", "cross_entropy": {}}, {"on": "task", "kl_to_reference": {}}]
    stages = [
        {
            "name": name,
            "objective": terms,
            "train": {"steps": 4, "batch": 4, "lr": 0.02},
            "lora": {"rank": 2, "continues": name == "two"},
            "reference": "start",
        }
        for name in ("one", "two")
    ]
    facts = {"zoo": "authors", "people": 2, "facts": 2}
    given = {
        "model": {"pretrained": str(tmp_path / "model"), "max_length": 128},
        "roles": {"task": facts, "other": {**facts, "first": 2}},
        "stages": stages,
        "tasks": {"one": "task", "two": "other"},
        "audits": {"task": ["probability"], "other": ["probability"]},
    }
    curves = {c.name: c.points for c in run(parse_recipe(given), tmp_path / "run").curves if c.run == "after"}
    one, two = (curves[f"{name}: task/kl_to_reference"] for name in ("one", "two"))
    assert one[0][1] == pytest.approx(0, abs=1e-6) and one[-1][1] > 1e-3
    assert two[0][1] > 1e-3


def test_a_companion_has_none() -> None:
    with pytest.raises(RecipeError, match=r"stages\.1\.reference: a companion has no start but its own; write auto"):
        parse_recipe(raw("start", trains="teacher", starts={"truncated_copy": {"layers": 1}}))
