"""Where a retrained model starts: at the model that was taught, or at the one before that, which has to be named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.checkpoint import read_tensors
from palimpsest.plans import made_by, plans, stage_folders
from palimpsest.recipe import RecipeError
from palimpsest.recipe_check import cautions
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run
from palimpsest.zoo.models import tiny_llama

AUTHORS = {"zoo": "authors", "people": 4, "facts": 2, "forget": 1}
TRAIN = {"steps": 2, "batch": 2, "lr": 1e-3}
CE: dict[str, Any] = {"cross_entropy": {}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one architecture, and one that is wider."""
    folder = tmp_path_factory.mktemp("models")
    made = {"ours": tiny_llama(seed=0), "base": tiny_llama(seed=1), "wide": tiny_llama(width=96)}
    for name, parts in made.items():
        for part in parts:
            part.save_pretrained(folder / name)
    return folder


@pytest.fixture
def raw(models: Path) -> dict[str, Any]:
    """One stage that unlearns from a model that was taught elsewhere."""
    roles = {part: {**AUTHORS, "part": part} for part in ("forget", "retain")}
    return copy.deepcopy(
        {
            "model": {"pretrained": str(models / "ours"), "max_length": 64},
            "roles": roles,
            "objective": [{"on": "forget", "gradient_ascent": {}}],
            "train": TRAIN,
            "audits": {"retain": ["probability"]},
        }
    )


def retrain(raw: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**raw, "baselines": [{"retrain": fields}]}


def weights(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "model.safetensors")[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(Quiet):
    """Ends a run as it comes to a part."""

    def __init__(self, at: str) -> None:
        self.at = at

    def part(self, number: int, parts: int, label: str) -> None:
        """Stops there."""
        if label.startswith(self.at):
            raise KeyboardInterrupt


def test_it_starts_at_the_model_that_is_named(raw: dict[str, Any], models: Path, tmp_path: Path) -> None:
    """It is what a run of its own from that model leads to, with every seed and after a kill."""
    seeds = {"seeds": [3, 4]}
    from_base = parse_recipe(retrain(raw, pretrained=str(models / "base"), train=TRAIN) | seeds)
    with pytest.raises(KeyboardInterrupt):
        run(from_base, tmp_path / "own", events=Killed("retrained on retain, from base: audits (seed 4)"))
    report = run(from_base, tmp_path / "own")
    alone = {"model": {**raw["model"], "pretrained": str(models / "base")}, "objective": [{"on": "retain", **CE}]}
    run(parse_recipe(raw | alone | seeds), tmp_path / "alone")
    for seed in (3, 4):
        folder = tmp_path / "own" / f"seed-{seed}" / "retrained" / "0-retrain"
        assert same(weights(folder), weights(tmp_path / "alone" / f"seed-{seed}" / "after" / "0-train"))
    assert {r.name: r.label for r in report.runs}["retrained"] == "retrained on retain, from base"
    assert not report.warnings


def test_the_other_models_start_where_they_did(raw: dict[str, Any], models: Path, tmp_path: Path) -> None:
    base = retrain(raw, pretrained=str(models / "base"), train=TRAIN)
    base["variants"] = {"later": {"objective": raw["objective"], "train": {**TRAIN, "steps": 1}}}
    base["baselines"].append({"fine_tune": {}})
    run(parse_recipe(base), tmp_path / "with")
    run(parse_recipe({**base, "baselines": ["fine_tune"]}), tmp_path / "without")
    for own in ("after/0-train", "later/0-later", "fine_tune/0-fine_tune"):
        assert same(weights(tmp_path / "with/seed-0" / own), weights(tmp_path / "without/seed-0" / own))


def test_stages_from_another_start_are_not_those_of_the_recipe(raw: dict[str, Any], models: Path) -> None:
    """Both begin with the same stage on what is retained; it is trained once only where both start alike."""
    stages = [{"name": "teach", "objective": [{"on": "retain", **CE}], "train": TRAIN}, {"name": "unlearn"}]
    for key in ("objective", "train"):
        stages[1][key] = raw.pop(key)
    own = plans(parse_recipe(retrain(raw | {"stages": stages})))
    assert stage_folders(made_by(own))["retrained", 0] == Path("before/0-teach")
    other = plans(parse_recipe(retrain(raw | {"stages": stages}, pretrained=str(models / "base"))))
    assert stage_folders(made_by(other))["retrained", 0] == Path("retrained/0-teach")


def test_with_nothing_to_repeat_the_start_is_asked_for_first(raw: dict[str, Any]) -> None:
    asked = r"^baselines\.0: retrain repeats .* and this recipe has only one; give retrain pretrained, .* and its own"
    with pytest.raises(RecipeError, match=asked):
        parse_recipe(retrain(raw))
    with pytest.raises(RecipeError, match=r"has only one; give retrain its own train, or add"):
        parse_recipe(retrain(raw, pretrained="base"))


def test_with_tasks_no_stage_lies_before(raw: dict[str, Any]) -> None:
    stages = [{"name": "teach", "objective": [{"on": "retain", **CE}], "train": TRAIN}, {"name": "unlearn"}]
    for key in ("objective", "train"):
        stages[1][key] = raw.pop(key)
    with pytest.raises(RecipeError, match=r"with tasks all stages from the first of them on count as the last; give"):
        parse_recipe(retrain(raw | {"stages": stages, "tasks": {"teach": "retain"}}))


def test_a_companion_is_no_stage_that_taught_the_model(raw: dict[str, Any], models: Path) -> None:
    beside = {"name": "copy", "trains": "copy", "starts": "full_copy", "objective": [{"on": "forget", **CE}]}
    stages = [{**beside, "train": TRAIN}, {"name": "unlearn"}]
    for key in ("objective", "train"):
        stages[1][key] = raw.pop(key)
    with pytest.raises(RecipeError, match=r"and none of these trains the model; give retrain pretrained"):
        parse_recipe(retrain(raw | {"stages": stages}))
    found = parse_recipe(retrain(raw | {"stages": stages}, pretrained=str(models / "base"), train=TRAIN))
    (stage,) = plans(found)[-1].stages
    assert stage.trains == "model" and stage.objective == [{"on": "retain", **CE}]


def test_a_start_that_may_know_the_rows_is_told_and_stands_in_the_report(raw: dict[str, Any], tmp_path: Path) -> None:
    recipe = parse_recipe(retrain(raw, train=TRAIN))
    told: list[str] = []

    class Notes(Quiet):
        def note(self, text: str) -> None:
            """Kept."""
            told.append(text)

    report = run(recipe, tmp_path, events=Notes())
    (caution,) = report.warnings
    assert caution in told and "has not seen the rows of forget" in caution and raw["model"]["pretrained"] in caution
    assert caution in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_naming_the_model_itself_as_the_start_is_told_too(raw: dict[str, Any]) -> None:
    own = raw["model"]["pretrained"]
    (caution,) = cautions(parse_recipe(retrain(raw, pretrained=f"{own}/", train=TRAIN)))
    assert "has not seen the rows of forget" in caution


def test_a_recipe_that_teaches_the_rows_itself_needs_no_caution(raw: dict[str, Any]) -> None:
    teach = {"name": "teach", "objective": [{"on": "all", **CE}], "train": TRAIN}
    unlearn = {"name": "unlearn", "objective": raw.pop("objective"), "train": raw.pop("train")}
    raw["roles"]["all"] = ["forget", "retain"]
    assert not cautions(parse_recipe(retrain(raw | {"stages": [teach, unlearn]})))
    teach["objective"] = [{"on": "retain", **CE}]
    (caution,) = cautions(parse_recipe(retrain(raw | {"stages": [teach, unlearn]})))
    assert caution.startswith("baselines.0: retrain starts from ")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wide", r"is no model like .* \(model\.embed_tokens\.weight is \[512, 96\]"),
        ("gone", "There is no folder"),
    ],
)
def test_another_kind_of_model_is_refused_before_training(
    raw: dict[str, Any], models: Path, tmp_path: Path, name: str, why: str
) -> None:
    recipe = parse_recipe(retrain(raw, pretrained=str(models / name), train=TRAIN))
    with pytest.raises(RecipeError, match=rf"^baselines\.retrained\.pretrained: .*{why}"):
        run(recipe, tmp_path)
    assert not list(tmp_path.glob("seed-*"))


def test_a_relative_start_is_looked_up_as_the_model_is(
    raw: dict[str, Any], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw["model"]["pretrained"] = "./ours"
    report = run(parse_recipe(retrain(raw, pretrained="./base", train=TRAIN)), tmp_path / "out", folder=models)
    assert "retrained" in {r.name for r in report.runs}
