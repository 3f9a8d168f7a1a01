"""A recipe of several stages says of which one its report is, and the key that it names makes the report one of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.plans import about, plans
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run
from palimpsest.yaml_text import parse


def stage(name: str, on: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "objective": [{"on": on, "cross_entropy": {}}], "train": {"steps": 1, "batch": 8}, **more}


def raw(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {"early": {"zoo": "digits", "classes": [0]}, "late": {"zoo": "digits", "classes": [1]}},
        "stages": list(stages),
        "audits": {"late": ["accuracy"], "early": ["accuracy"]},
        **more,
    }


READ, FOLLOW, PREFER = stage("read", "early"), stage("follow", "late"), stage("prefer", "late")


def test_the_stages_are_named_and_the_key_that_is_proposed_does_it() -> None:
    said = about(parse_recipe(raw(READ, FOLLOW, PREFER)))
    assert said.startswith("The report is about the last stage, prefer: its before is the model after read, follow.")
    proposed = said.partition("write tasks: ")[2].partition(";")[0]
    whole = parse_recipe(raw(READ, FOLLOW, PREFER, tasks=parse(proposed)))
    assert parse(proposed) == {"read": "early"}
    before, after = plans(whole)
    assert not before.stages and [s.name for s in after.stages] == ["read", "follow", "prefer"]
    assert not about(whole)


@pytest.mark.parametrize(
    "stages",
    [[READ], [READ, PREFER], [READ, stage("beside", "early", trains="copy", starts="full_copy"), PREFER]],
    ids=["one", "taught", "companion"],
)
def test_nothing_is_said_where_at_most_one_stage_lies_before(stages: list[dict[str, Any]]) -> None:
    assert not about(parse_recipe(raw(*stages)))


def test_a_run_tells_it(tmp_path: Path) -> None:
    told: list[str] = []

    class Notes(Quiet):
        def note(self, text: str) -> None:
            """Kept."""
            told.append(text)

    recipe = parse_recipe(raw(READ, FOLLOW, PREFER))
    report = run(recipe, tmp_path, events=Notes())
    assert about(recipe) in told and not report.warnings  # the report is right, only of less than one may think
