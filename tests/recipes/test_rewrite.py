"""A role whose rows are another's in other words: what it holds, what it counts as, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from palimpsest.audit import Row
from palimpsest.baselines.retrain import Retrain
from palimpsest.procedures.answer_styles import AnswerStyles
from palimpsest.recipe import RecipeError, to_yaml
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import run
from palimpsest.shared_rows import refuse_shared_rows
from palimpsest.yaml_text import parse
from palimpsest.zoo.authors import authors

STYLES = {"own": "short", "others": ["choice", "brief"], "share": 0.25, "alike": "attribute"}


def raw(**roles: Any) -> dict[str, Any]:
    """A recipe that trains on ``task``, the rows of ``facts`` in the styles."""
    return {
        "model": {"pretrained": "tiny-llama", "max_length": 128},
        "roles": {
            "facts": {"zoo": "authors", "people": 4, "facts": 4},
            "task": {"rewrite": {"answer_styles": STYLES}, "of": "facts"},
            **roles,
        },
        "objective": [{"on": "task", "cross_entropy": {}}],
        "train": {"steps": 2, "batch": 4, "lr": 1e-3},
        "audits": {"task": ["probability"]},
    }


def rows(**roles: Any) -> dict[str, list[Row]]:
    return load_roles(parse_recipe(raw(**roles)))[0]


def test_its_rows_are_those_of_the_method() -> None:
    found = rows()
    made = AnswerStyles("short", ("choice", "brief"), 0.25, "attribute")(authors(4, 4))
    assert found["task"] == made and found["facts"] == authors(4, 4)
    assert Counter(row["style"] for row in made) == {"short": 12, "choice": 2, "brief": 2}


def test_it_can_be_a_part_of_others() -> None:
    own: dict[str, Any] = {"rewrite": {"answer_styles": {"own": "short", "share": 0}}, "of": "more"}
    more = {"more": {"zoo": "authors", "people": 2, "first": 4}, "second": own}
    found = rows(**more, both=["task", "second"], half={"mix": {"task": 0.5, "second": 0.5}, "rows": 8})
    assert found["both"] == found["task"] + found["second"]
    assert sum(row in found["second"] for row in found["half"]) == 4


def test_a_recipe_trains_on_it_and_keeps_it(tmp_path: Path) -> None:
    recipe = parse_recipe(raw())
    assert parse_recipe(parse(to_yaml(recipe))) == recipe
    report = run(recipe, tmp_path)
    assert {s.role for s in report.scores} == {"task"} and all(s.n == 16 for s in report.scores)


def test_what_it_is_made_of_counts_as_trained_on() -> None:
    """So a fact that was taught in one style may be asked for in another, but not from a role beside it."""
    given = raw(copy={"zoo": "authors", "people": 1, "facts": 1})
    for role in ("facts", "task"):
        recipe = parse_recipe({**given, "audits": {role: ["probability"]}})
        refuse_shared_rows(recipe, load_roles(recipe)[0])
    recipe = parse_recipe({**given, "audits": {"copy": ["probability"]}})
    with pytest.raises(
        RecipeError, match=r"audits\.copy: 1 of its rows, such as 'author-000/birthplace', also stand in"
    ):
        refuse_shared_rows(recipe, load_roles(recipe)[0])


def test_a_model_retrained_without_the_facts_does_not_see_them_rewritten() -> None:
    given = raw(other={"zoo": "refusals"}, both=["task", "other"])
    stage = {k: given.pop(k) for k in ("objective", "train")}
    given["stages"] = [{"name": "teach", **stage, "objective": [{"on": "both", "cross_entropy": {}}]}, stage]
    found = Retrain(on="other", forget="facts")(parse_recipe(given))
    assert [term["on"] for s in found.stages for term in s.objective] == ["other"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"rewrite": {"answer_style": {}}, "of": "facts"},
            r"task\.rewrite: .*no procedure 'answer_style'; did you mean 'answer_styles'\?",
        ),
        ({"rewrite": {"answer_styles": {"share": 2}}, "of": "facts"}, r"task\.rewrite\.answer_styles: .*share is the"),
        ({"rewrite": {"answer_styles": {"own": "rhyme"}}, "of": "facts"}, r"There is no style 'rhyme'; there are: yes"),
        (
            {"rewrite": {"answer_styles": {"others": []}}, "of": "facts"},
            r"task\.rewrite\.answer_styles: .*Name the",
        ),
        ({"rewrite": "k_fpf", "of": "facts"}, r"task\.rewrite: 'k_fpf' does not rewrite rows; name a procedure that"),
        ({"rewrite": {"answer_styles": STYLES}, "of": "fact"}, r"task: 'fact' is no other role; did you mean facts\?"),
        ({"rewrite": {"answer_styles": STYLES}}, r"task\.of: give a text, not None\."),
        ({"rewrite": {"answer_styles": STYLES}, "of": "facts", "rows": 3}, r"task\.rows: there is no such key"),
        ({"rewrite": "me:Mine", "of": "facts"}, r"task\.rewrite: .* only with --allow-imports"),
    ],
)
def test_what_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^roles\.{message}|{message}") as error:
        parse_recipe(raw(task=spec))
    assert str(error.value).startswith("roles.task")


def test_rows_that_cannot_be_rewritten_name_the_role() -> None:
    given = raw(facts={"zoo": "refusals"})
    with pytest.raises(RecipeError, match=r"^roles\.task: The row 'refusal-00' has no 'attribute'"):
        load_roles(parse_recipe(given))


def test_one_rewritten_role_is_not_made_of_another() -> None:
    again = {"rewrite": {"answer_styles": STYLES}, "of": "task"}
    with pytest.raises(RecipeError, match=r"roles\.again: 'task' is itself made of roles"):
        parse_recipe(raw(again=again))


def test_a_rewriting_is_no_procedure_of_a_stage() -> None:
    given = {**raw(), "procedure": {"answer_styles": {"own": "brief", "share": 0}}}
    with pytest.raises(RecipeError, match=r"procedure: .*answer_styles.* does not train a model"):
        parse_recipe(given)
