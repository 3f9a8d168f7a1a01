"""The recipe for preferences on the page about recipes: its pairs are the file's, and what it measures is their
order."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objectives.preference import Preference, preference
from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.report import Report
from palimpsest.run import run
from palimpsest.yaml_text import parse
from palimpsest.zoo.models import tiny_llama

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
WORDS = ("bread", "clocks", "bees", "boats", "books", "shoes", "glass")
Rows = list[dict[str, Any]]


def written(folder: Path, name: str, rows: Rows) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pairs(who: str) -> Rows:
    return [{"prompt": f"{who} {w}?", "chosen": f" yes, {w}", "rejected": f" no {w} at all"} for w in WORDS]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """The page's own, of seven pairs, for a model of a few weights and a few steps at a high rate."""
    for part in tiny_llama(400, 2, 32):
        part.save_pretrained(tmp_path / "my-model")
    written(tmp_path, "pairs.jsonl", pairs("Who makes"))
    written(tmp_path, "other-pairs.jsonl", pairs("Who sells"))
    (block,) = (b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "name: preferences" in b)
    found: dict[str, Any] = parse(block)
    found["model"] = {"pretrained": str(tmp_path / "my-model"), "max_length": 64}
    return found


def result(raw: dict[str, Any], folder: Path, name: str = "out") -> Report:
    return run(parse_recipe(raw), folder / name, folder=folder)


def model_of(out: Path) -> Path:
    """The folder of the trained model."""
    (found,) = (out / "seed-0" / "after").glob("0-*")
    return found


def answers_of(folder: Path) -> list[torch.Tensor]:
    """Log-probabilities of the chosen and of the rejected answers of the training file, [7] each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    subject = CausalLM(tokenizer).subject(AutoModelForCausalLM.from_pretrained(folder).eval())
    rows = pairs("Who makes")
    asked = ([{"prompt": r["prompt"], "completion": r[c]} for r in rows] for c in ("chosen", "rejected"))
    return [torch.stack([logp.sum() for logp in subject.logp(own)]) for own in asked]


@pytest.mark.parametrize(("accumulation", "loop"), [(1, "plain"), (2, "plain"), (2, "trainer")])
def test_every_pair_is_a_row_of_the_file(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int, loop: str
) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    real = Preference.__call__

    def watched(self: Preference, view: Any, state: Any = None) -> torch.Tensor:
        seen.append((view[0].batch["index"].tolist(), view[1].batch["index"].tolist()))
        return real(self, view, state)

    monkeypatch.setattr(Preference, "__call__", watched)
    recipe["train"] = {"steps": 6, "batch": 4, "accumulation": accumulation, "lr": 1e-3, "loop": loop}
    recipe["seeds"] = [0, 5]
    report = result(recipe, tmp_path)
    assert len(seen) == 12 * accumulation and all(chosen == rejected for chosen, rejected in seen)
    assert {i for chosen, _ in seen for i in chosen} == set(range(7))
    assert {(score.role, score.audit) for score in report.scores} == {("held out", "multiple_choice")}


def test_the_loss_is_that_of_the_file_s_pairs(recipe: dict[str, Any], tmp_path: Path) -> None:
    """All rows in a batch, after training: their mean loss is that of the pairs, which other pairs would not have."""
    recipe["train"] = {"steps": 8, "batch": 7, "lr": 3e-3}
    recipe["objective"][0]["preference"]["beta"] = 1.0
    report = result(recipe, tmp_path)
    (curve,) = (c for c in report.curves if c.run == "after")
    before, after = (answers_of(folder) for folder in (tmp_path / "my-model", model_of(tmp_path / "out")))
    recipe["train"]["steps"] = 9
    (longer,) = (c for c in result(recipe, tmp_path, "longer").curves if c.run == "after")
    assert longer.points[:8] == curve.points
    expected = preference(after[0], before[0], after[1], before[1], 1.0).mean()
    assert longer.points[8][1] == pytest.approx(float(expected), rel=1e-4)
    turned = preference(after[0], before[0], after[1].roll(1), before[1].roll(1), 1.0).mean()
    assert abs(float(expected) - float(turned)) > 1e-3 * float(expected), "other pairs have another loss"


def test_training_turns_the_order_of_held_out_answers(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["train"] = {"steps": 60, "batch": 7, "lr": 3e-3}
    report = result(recipe, tmp_path)
    found = {score.run: score.value for score in report.scores}
    assert found["after"] > found["before"] + 0.4


REFUSED = [
    (lambda rows: rows[:5], r"stages\.0\.objective: preference joins .* they have 7 and 5 rows; give both the same"),
    (lambda rows: rows[::-1], r"stages\.0\.objective: .* rows 1 answer different prompts, 'Who makes bread\?' and '"),
]


@pytest.mark.parametrize(("change", "says"), REFUSED, ids=["fewer", "reversed"])
def test_other_rows_are_refused_before_a_model_is_loaded(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, says: str
) -> None:
    written(tmp_path, "others.jsonl", change(pairs("Who makes")))
    recipe["roles"]["rejected"]["file"] = "others.jsonl"
    monkeypatch.setattr(
        sys.modules["palimpsest.run"], "load_model", lambda *_, **__: pytest.fail("the model was loaded")
    )
    with pytest.raises(RecipeError, match=says):
        result(recipe, tmp_path)
