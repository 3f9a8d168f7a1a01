"""What a recipe leaves out: its name, and the parts that ``--set`` leads through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import Lora
from palimpsest.recipe_source import load_recipe, parse_recipe
from palimpsest.run import run
from palimpsest.yaml_text import dump


def stage(name: str, role: str) -> dict[str, Any]:
    return {"name": name, "objective": [{"on": role, "cross_entropy": {}}], "train": {"steps": 1, "batch": 8}}


@pytest.fixture
def raw() -> dict[str, Any]:
    """Two stages on pictures."""
    return {
        "name": "small",
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {"one": {"zoo": "digits", "classes": [0]}, "two": {"zoo": "digits", "classes": [1]}},
        "stages": [stage("teach", "one"), stage("follow", "two")],
        "audits": {"one": ["accuracy"]},
    }


def test_overrides_make_what_was_left_out(raw: dict[str, Any]) -> None:
    left_out = ["stages.1.train.schedule.rewarm.warmup=0.2", "stages.1.lora.rank=2", "expect.one/accuracy=lower"]
    recipe = parse_recipe(raw, left_out)
    own = recipe.stages[1]
    assert own.train is not None and own.train["schedule"] == {"rewarm": {"warmup": 0.2}} and own.lora == Lora(rank=2)
    assert recipe.expect == {"one/accuracy": "lower"}


def test_a_file_without_a_name_gives_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    del raw["name"]
    for stem, name in (("unlearn-3", "unlearn-3"), (".hidden", "run"), ("long" * 30, "run")):
        file = tmp_path / f"{stem}.yaml"
        file.write_text(dump(raw))
        assert load_recipe(file).name == name
    assert load_recipe(file, ["name=other"]).name == "other"
    file.write_text(dump({**raw, "name": "own"}))
    assert load_recipe(file).name == "own"


def test_a_run_goes_on_under_another_name(raw: dict[str, Any], tmp_path: Path) -> None:
    """A recipe that is moved to another file, say."""
    first = run(parse_recipe(raw | {"name": "one"}), tmp_path)
    made = (tmp_path / "seed-0/after/0-follow/model.safetensors").stat().st_mtime_ns
    second = run(parse_recipe(raw | {"name": "other"}), tmp_path)
    assert (first.name, second.name) == ("one", "other") and first.scores == second.scores
    assert (tmp_path / "seed-0/after/0-follow/model.safetensors").stat().st_mtime_ns == made
