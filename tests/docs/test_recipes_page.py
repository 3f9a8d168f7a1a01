"""The page about recipes names every key that there is, and what it shows can be read."""

from __future__ import annotations

import csv
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from palimpsest import Report
from palimpsest.loop import Training
from palimpsest.plans import plans
from palimpsest.recipe import Lora, ModelSpec, Recipe, Stage, WatchSpec
from palimpsest.recipe_check import cautions
from palimpsest.recipe_source import load_recipe, parse_recipe
from palimpsest.role_data import KEYS
from palimpsest.views import LabelView, TokenView
from palimpsest.yaml_text import parse
from palimpsest.zoo import DATASETS

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("part", [Recipe, Stage, ModelSpec, Lora, WatchSpec, Training])
def test_every_key_has_its_place(part: type) -> None:
    shown = set(re.findall(r"`(\w+)`", PAGE))
    assert {f.name for f in fields(part)} <= shown


def test_every_kind_of_role_and_every_data_set_is_named() -> None:
    shown = " ".join(re.findall(r"`([^`\n]+)`", PAGE))
    assert all(re.search(rf"\b{key}\b", shown) for keys in KEYS.values() for key in keys)
    assert all(name in PAGE for name in DATASETS)


def test_the_recipes_are_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_losses.py").write_text(
        "from dataclasses import dataclass\n"
        "from palimpsest import Objective\n\n\n"
        "@dataclass(frozen=True)\nclass Focal(Objective):\n    gamma: float = 2.0\n\n"
        "    def __call__(self, view, state=None):\n        return -view.logp\n"
    )
    assert len(BLOCKS) == 7
    first, preferences, notes, merged, companion, retrained, last = (
        parse_recipe(parse(block), allow_imports=True) for block in BLOCKS
    )
    assert len(first.stages[0].objective) == 2 and first.seeds == [0, 1, 2] and last.name == "run"
    assert preferences.stages[0].objective[0]["on"] == ["chosen", "rejected"]
    assert notes.model.end_of_text and notes.roles["notes"]["split"] is True
    assert companion.start == 1 and companion.stages[0].starts == "full_copy" and len(companion.variants) == 2
    assert plans(retrained)[-1].pretrained == "./base" and not cautions(retrained)
    (own,), (faster,), (adapter,) = merged.stages, merged.variants["faster"], merged.variants["an adapter"]
    assert faster == replace(own, train={**(own.train or {}), "lr": 5e-5}) and adapter == replace(
        own, lora=Lora(rank=8)
    )


def test_every_field_of_a_view_is_in_the_table() -> None:
    """Those that a loss may look at, each in the column of its kind."""
    lines = PAGE.partition("| `view.` |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    shown = {name for first, *_ in cells for name in re.findall(r"`(\w+)", first)}
    plumbing = {"companion", "companions", "outputs", "even"}
    own = {name for kind in (TokenView, LabelView) for name in dir(kind) if not name.startswith("_")}
    assert shown | plumbing == own | plumbing | {"batch", "answers"}
    for first, *kinds in cells:
        for name in re.findall(r"`(\w+)", first):
            for kind, told in zip((TokenView, LabelView), kinds, strict=True):
                assert told or name not in dir(kind), f"{name} of {kind.__name__} is not explained"


def test_the_snippets_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, recipe = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "my-run").mkdir(parents=True)
    study = Path(__file__).parents[2] / "results" / "studies" / "tofu-small.json"
    (tmp_path / "runs" / "my-run" / "report.json").write_bytes(study.read_bytes())
    exec(compile(table, "recipes.md", "exec"), {})
    found = list(csv.reader((tmp_path / "scores.csv").open()))
    report = Report.load(study)
    assert [(run, float(value)) for run, _, _, value, *_ in found] == [(s.run, s.value) for s in report.scores]
    (tmp_path / "made.py").write_text(recipe)
    (tmp_path / "forget.jsonl").touch()
    (tmp_path / "retain.jsonl").touch()
    assert set(load_recipe(tmp_path / "made.py", allow_imports=True).roles) == {"forget", "retain"}
    named = re.findall(r"`(\w+)`", PAGE.partition("whose parts are lists of records: ")[2].partition(".\n")[0])
    assert all(isinstance(getattr(report, name), tuple | list) for name in named) and len(named) == 7
