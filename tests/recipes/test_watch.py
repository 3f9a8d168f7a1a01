"""``watch`` in a recipe: measured on the way, kept, shown, and refused where it cannot be."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.curves import StepCurves, worst_of_earlier
from palimpsest.page import render
from palimpsest.recipe import RecipeError, plain
from palimpsest.recipe_source import parse_recipe
from palimpsest.report import Report
from palimpsest.run import run

TRAIN = {"steps": 6, "batch": 16, "lr": 0.1, "optimizer": "sgd"}
WATCH = {"every": 4, "audits": {"low": ["accuracy"], "high": ["accuracy"]}}
RAW: dict[str, Any] = {
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {
        "low": {"zoo": "digits", "part": "train", "classes": [0, 1, 2, 3, 4]},
        "high": {"zoo": "digits", "part": "train", "classes": [5, 6, 7, 8, 9]},
        "test": {"zoo": "digits", "part": "test"},
    },
    "stages": [
        {"name": "first", "objective": [{"on": "low", "cross_entropy": {}}], "train": TRAIN, "watch": WATCH},
        {"name": "second", "objective": [{"on": "high", "cross_entropy": {}}], "train": TRAIN, "watch": WATCH},
    ],
    "audits": {"low": ["accuracy"], "high": ["accuracy"]},
}


@pytest.fixture
def raw() -> dict[str, Any]:
    return copy.deepcopy(RAW)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch") / "run"
    run(parse_recipe(RAW), folder)
    return folder


def stages(out: Path) -> list[dict[str, Any]]:
    files = [out / "seed-0/before/0-first/watch.json", out / "seed-0/after/0-second/watch.json"]
    return [json.loads(file.read_text()) for file in files]


def test_curves_are_kept_with_how_often(out: Path) -> None:
    for kept in stages(out):
        assert kept["every"] == 4 and kept["seconds"] > 0
        assert {name: [s for s, _ in points] for name, points in kept["curves"].items()} == {
            "low/accuracy": [0, 4, 6],
            "high/accuracy": [0, 4, 6],
        }
    report = Report.load(out / "report.json")
    names = [c.name for c in report.curves]
    assert names.count("low/accuracy (every 4 steps)") == 2  # of before and of after
    assert "low/accuracy (every 4 steps)" in render(report)


def test_the_ends_are_what_the_audits_say(out: Path) -> None:
    first, second = stages(out)
    scores = {(s.run, s.role): s.value for s in Report.load(out / "report.json").scores}
    for role in ("low", "high"):
        assert first["curves"][f"{role}/accuracy"][-1][1] == pytest.approx(scores["before", role])
        assert second["curves"][f"{role}/accuracy"][0][1] == pytest.approx(scores["before", role])
        assert second["curves"][f"{role}/accuracy"][-1][1] == pytest.approx(scores["after", role])
    taught = {"low/accuracy": 1, "high/accuracy": 2}
    curves = StepCurves.joined([k["curves"] for k in (first, second)], taught, better="higher", every=4)
    worst = worst_of_earlier(curves)
    assert worst is not None and worst <= scores["after", "low"]


def test_without_it_the_weights_are_the_same(out: Path, raw: dict[str, Any], tmp_path: Path) -> None:
    for stage in raw["stages"]:
        del stage["watch"]
    run(parse_recipe(raw), tmp_path / "run")
    file = "seed-0/after/0-second/model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (out / file).read_bytes()
    assert not list((tmp_path / "run").rglob("watch.json"))


def test_it_is_written_as_it_was_read(raw: dict[str, Any]) -> None:
    recipe = parse_recipe(raw)
    assert plain(recipe)["stages"][0]["watch"] == WATCH
    assert parse_recipe(plain(recipe)) == recipe


def test_a_recipe_of_one_stage_writes_it_at_the_top(raw: dict[str, Any]) -> None:
    stage = raw.pop("stages")[0]
    stage.pop("name")
    assert parse_recipe({**raw, **stage}).stages[0].watch is not None


@pytest.mark.parametrize(
    ("watch", "says"),
    [
        ({"every": 0, "audits": {"low": ["accuracy"]}}, "stages.0.watch: every must be at least 1 step, not 0"),
        ({"every": 2, "audits": {}}, "stages.0.watch: audits must name an audit"),
        ({"every": 2}, "stages.0.watch.audits: this key is missing"),
        (
            {"every": 2, "audits": {"low": ["accuracy"]}, "audit": {}},
            "stages.0.watch.audit: there is no such key; did you mean audits",
        ),
        (
            {"every": 2, "audits": {"lov": ["accuracy"]}},
            "stages.0.watch.audits.lov: this role has no data; did you mean low",
        ),
        (
            {"every": 2, "audits": {"low": ["acuracy"]}},
            "stages.0.watch.audits.low.0: There is no audit 'acuracy'; did you",
        ),
        (
            {"every": 2, "audits": {"low": ["accuracy", "accuracy"]}},
            "stages.0.watch.audits.low: accuracy is listed twice",
        ),
    ],
)
def test_mistakes_name_their_place(raw: dict[str, Any], watch: dict[str, Any], says: str) -> None:
    raw["stages"][0]["watch"] = watch
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    assert str(caught.value).startswith(says)


def test_where_it_cannot_be(raw: dict[str, Any]) -> None:
    trainer = copy.deepcopy(raw)
    trainer["stages"][0]["train"] = {**TRAIN, "loop": "trainer"}
    with pytest.raises(RecipeError, match=r"^stages\.0\.watch: the Trainer does not measure .* train\.loop: plain\.$"):
        parse_recipe(trainer)
    idle = copy.deepcopy(raw)
    idle["stages"].insert(0, {"name": "x", "intervention": {"logit_difference": {}}, "watch": WATCH})
    with pytest.raises(RecipeError, match=r"^stages\.0\.watch: it is for training"):
        parse_recipe(idle)


def test_an_audit_that_fails_names_its_place(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["stages"][1]["watch"] = {"every": 1, "audits": {"low": ["rouge"]}}
    with pytest.raises(RecipeError, match=r"^stages\.1\.watch\.audits\.low\.rouge: "):
        run(parse_recipe(raw), tmp_path / "run")


def test_watched_rows_must_not_be_trained_on_under_another_name(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["roles"]["held_out"] = raw["roles"]["low"]
    raw["stages"][0]["watch"] = {"every": 1, "audits": {"held_out": ["accuracy"]}}
    with pytest.raises(
        RecipeError, match=r"^stages\.0\.watch\.audits\.held_out: .* also stand in the training role 'low'"
    ):
        run(parse_recipe(raw), tmp_path / "run")
