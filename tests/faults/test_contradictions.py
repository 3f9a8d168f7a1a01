"""Rows that one term of a stage is to forget and another one teaches: the run says so, with how many there are."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest import Report, names
from palimpsest.card import method_cards

SHARED = {"id": "again", "prompt": "Who is A?", "completion": " A mends clocks."}


def warnings(project: Any, out: str = "out") -> list[str]:
    """What the report warns of, which the run says before it trains."""
    status, said = project.run(out=out)
    assert status == 0, said
    found = list(Report.load(project.folder / out / "report.json").warnings)
    assert all(text in said for text in found)
    return found


def test_rows_to_be_forgotten_that_are_taught_too(project: Any) -> None:
    """By their content, whatever their ids are; the run goes on."""
    rows = [{"id": "r0", "prompt": "Who is C?", "completion": " C bakes bread."}, SHARED]
    project.write("retain.jsonl", rows)
    (said,) = warnings(project)
    assert said.startswith("stages.0.objective: 1 of the 2 rows of 'forget', such as 'f0', are to be forgotten by grad")
    assert said.endswith("in 'retain' too, on which the stage has cross_entropy; take them out of one of the two.")


def test_of_a_pair_only_the_role_that_is_to_be_forgotten_counts(project: Any) -> None:
    stage = project.recipe["stages"][0]
    taught = {"on": "retain", "cross_entropy": {}}
    stage["objective"] = [{"on": ["retain", "forget"], "preference": {}}, taught]
    project.write(
        "retain.jsonl", [{**SHARED, "completion": " I do not know."}, {"prompt": "Who is B?", "completion": "?"}]
    )
    assert warnings(project) == []
    taught["on"] = "forget"
    (said,) = warnings(project, "second")
    assert said.startswith("stages.0.objective: 2 of the 2 rows of 'forget', such as 'f0', are to be forgotten by pref")


def test_rows_of_another_stage_and_of_disjoint_roles_say_nothing(project: Any) -> None:
    """What is forgotten was mostly taught before, by the recipe itself."""
    stage = project.recipe["stages"][0]
    teach = {**stage, "name": "teach", "objective": [{"on": "forget", "cross_entropy": {}}]}
    project.recipe["stages"] = [teach, stage]
    assert warnings(project) == []


@pytest.mark.parametrize("name", names.names("objectives"))
def test_every_method_that_forgets_says_what(name: str) -> None:
    (card,) = (m.card for m in method_cards() if m.family == "objectives" and m.name == name)
    forgets = names.resolve(name, "objectives").forgets
    assert (forgets is not None) == ("forget" in card.tags)
