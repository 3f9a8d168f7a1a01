"""The rows to be forgotten reach no stage of a retrained model: by a derived role, a selection, a mask or a setting."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import Recipe, RecipeError, Stage
from palimpsest.recipe_parts import compile_baselines
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import run
from palimpsest.shared_rows import refuse_seen_rows

ONE = {"zoo": "digits", "classes": [3]}
TWO = {"zoo": "digits", "classes": [5]}
TRAIN = {"steps": 2, "batch": 8, "lr": 1e-3}
RAW: dict[str, Any] = {
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {
        "forget": ONE,
        "retain": TWO,
        "all": ["forget", "retain"],
        "seen": {"augment": {"noise": 0.1}, "of": "forget"},
        "kept": {"augment": {"noise": 0.1}, "of": "retain"},
    },
    "audits": {"forget": ["accuracy"], "retain": ["accuracy"]},
    "baselines": ["retrain"],
}


def recipe(*terms: tuple[str, dict[str, Any]], **parts: Any) -> Recipe:
    """A stage that teaches with such terms and parts, and one that unlearns with the mask of SalUn."""
    raw = copy.deepcopy(RAW)
    teach = {"name": "teach", "objective": [{"on": role, **method} for role, method in terms], "train": TRAIN, **parts}
    unlearn = {"objective": [{"on": "forget", "random_label": {}}], "train": TRAIN, "mask": "salun"}
    raw["stages"] = [teach, {"name": "unlearn", **unlearn}]
    return parse_recipe(raw)


CE: dict[str, Any] = {"cross_entropy": {}}


def retrained(*terms: tuple[str, dict[str, Any]], **parts: Any) -> Stage:
    (baseline,) = compile_baselines(recipe(*terms, **parts))
    (stage,) = baseline.stages
    return stage


@pytest.mark.parametrize(
    ("roles", "left"),
    [
        (["all", "seen"], ["retain"]),
        (["retain", "seen"], ["retain"]),
        (["seen"], ["retain"]),
        (["retain", "kept"], ["retain", "kept"]),
    ],
)
def test_what_is_derived_from_the_forget_set_counts_as_made_of_it(roles: list[str], left: list[str]) -> None:
    assert retrained(*[(role, CE) for role in roles]).objective == [{"on": role, **CE} for role in left]


def test_a_pair_with_what_is_derived_from_it_is_refused() -> None:
    pair = {"name": "teach", "objective": [{"on": ["retain", "seen"], "balanced_threshold_margin": {}}], "train": TRAIN}
    with pytest.raises(RecipeError, match=r"the stage 'teach' would be without forget, since one of its terms takes"):
        parse_recipe({**RAW, "stages": [pair, pair]})


RESERVOIR = {"reservoir": {"size": 5}}


@pytest.mark.parametrize(
    ("roles", "select", "left"),
    [
        (["all"], {"all": RESERVOIR}, {"retain": RESERVOIR}),
        (["forget"], {"forget": RESERVOIR}, {"retain": RESERVOIR}),
        (["forget", "retain"], {"forget": RESERVOIR}, {}),
        (["forget", "retain"], {"retain": RESERVOIR}, {"retain": RESERVOIR}),
        (["all"], {"all": RESERVOIR, "retain": "class_balanced"}, {"retain": RESERVOIR}),
    ],
)
def test_a_selection_goes_with_its_term(roles: list[str], select: dict[str, Any], left: dict[str, Any]) -> None:
    assert retrained(*[(role, CE) for role in roles], select=select).select == left


def test_a_setting_that_names_both_names_what_is_kept() -> None:
    anchor = ("weights", {"elastic_weight_consolidation": {"of": "all", "rows": 7}, "weight": 2.0})
    mask = {"forgetting_prioritized": {"top": 1, "on": "all"}}
    found = retrained(("all", CE), anchor, mask=mask)
    assert found.objective[0] == {"on": "retain", **CE}
    own = {"of": "retain", "rows": 7, "decay": None}
    assert found.objective[1] == {"on": "weights", "elastic_weight_consolidation": own, "weight": 2.0}
    assert isinstance(found.mask, dict) and found.mask["forgetting_prioritized"]["on"] == "retain"
    untouched = {"forgetting_prioritized": {"top": 1, "on": "retain"}}
    assert retrained(("all", CE), mask=untouched).mask == untouched


def test_a_setting_inside_another_method_is_found() -> None:
    procedure = {"k_fpf": {"rounds": 1, "replay": "all", "moves": {"top": 1, "on": "all"}}}
    found = retrained(("kept", CE), ("all", CE), procedure=procedure).procedure
    assert isinstance(found, dict)
    assert found["k_fpf"]["replay"] == found["k_fpf"]["moves"].on == "retain" and found["k_fpf"]["rounds"] == 1


@pytest.mark.parametrize(
    ("terms", "parts", "what"),
    [
        ([("all", CE)], {"mask": "salun"}, "its mask"),
        ([("all", CE)], {"mask": {"salun": {"role": "seen"}}}, "its mask"),
        (
            [("all", CE), ("weights", {"elastic_weight_consolidation": {"of": "forget"}})],
            {},
            "its elastic_weight_consolidation",
        ),
        ([("all", CE), ("forget", CE)], {"procedure": {"k_fpf": {"replay": "forget"}}}, "its procedure"),
    ],
)
def test_a_setting_that_names_the_forget_set_is_refused(terms: Any, parts: dict[str, Any], what: str) -> None:
    """The mask of the stage that unlearns is none of the stages that are repeated, and may look at it."""
    with pytest.raises(
        RecipeError,
        match=rf"baselines\.0: retrain cannot tell what the stage 'teach' would be without forget, since {what} looks",
    ):
        recipe(*terms, **parts)


def test_a_mask_on_a_role_of_its_own_that_holds_such_rows_is_refused() -> None:
    own = recipe(("all", CE))
    rows = load_roles(own)[0]
    rows["probe"] = [{**row, "id": f"p{i}"} for i, row in enumerate(rows["forget"][:3])]
    own.roles["probe"] = "probe.jsonl"
    refuse_seen_rows(compile_baselines(own), own, rows)
    own.stages[0] = dataclasses.replace(own.stages[0], mask={"salun": {"role": "probe"}})
    with pytest.raises(RecipeError, match=r"retrained on retain would still learn 3 of the \d+ rows of 'forget'"):
        refuse_seen_rows(compile_baselines(own), own, rows)


def test_a_retrained_stage_runs_with_what_it_selects_and_masks(tmp_path: Path) -> None:
    mask = {"forgetting_prioritized": {"top": 1, "on": "all", "steps": 1}}
    given = recipe(("all", CE), ("seen", CE), select={"all": {"reservoir": {"size": 20}}}, mask=mask)
    report = run(given, tmp_path)
    assert {r.name: r.steps for r in report.runs}["retrained"] == 2
