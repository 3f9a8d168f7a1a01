"""Mixed roles in a recipe, and what a new stage does to the learning rate that a killed one does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest import loop
from palimpsest.baselines.retrain import Retrain
from palimpsest.loop import Interrupted, Progress, Training
from palimpsest.recipe import Recipe, RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import Quiet, run
from palimpsest.schedules.cosine import Cosine
from palimpsest.schedules.rewarm import Rewarm
from palimpsest.schedules.wsd import WSD
from palimpsest.shared_rows import refuse_shared_rows

DIGITS = {"zoo": "digits"}


def raw(**changes: Any) -> dict[str, Any]:
    """Two stages of a classifier of digits; the second one replays a tenth of the first one's data."""
    schedule = {"rewarm": {"warmup": 0.2, "floor": 0.1}}
    stage = {"objective": [{"on": "old", "cross_entropy": {}}]}
    return {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {
            "old": {**DIGITS, "classes": [0, 1, 2]},
            "new": {**DIGITS, "without": [0, 1, 2]},
            "stream": {"mix": {"old": 0.1, "new": 0.9}, "rows": 200},
            "test": {**DIGITS, "part": "test"},
        },
        "stages": [
            {"name": "first", **stage, "train": {"steps": 10, "batch": 8, "lr": 1e-3, "schedule": schedule}},
            {
                "name": "second",
                "objective": [{"on": "stream", "cross_entropy": {}}],
                "train": {"epochs": 1, "batch": 8, "lr": 5e-4, "schedule": schedule},
            },
        ],
        "audits": {"test": ["accuracy"]},
        **changes,
    }


def rows_of(spec: dict[str, Any], **changes: Any) -> list[Any]:
    given = raw(**changes)
    given["roles"]["stream"] = spec
    return load_roles(parse_recipe(given))[0]["stream"]


def test_the_rows_of_a_mix() -> None:
    found = rows_of({"mix": {"old": 0.1, "new": 0.9}, "rows": 200})
    assert len(found) == 200 and sum(row["label"] < 3 for row in found) == 20
    assert rows_of({"mix": {"old": 0.1, "new": 0.9}, "rows": 200, "seed": 1}) != found


def test_what_a_mix_is_made_of_counts_as_trained_on() -> None:
    given = raw(audits={"train_copy": ["accuracy"]})
    given["stages"] = given["stages"][1:]
    given["roles"]["train_copy"] = {**DIGITS, "classes": [1]}
    recipe = parse_recipe(given)
    with pytest.raises(RecipeError, match=r"audits\.train_copy: .* also stand in the training role"):
        refuse_shared_rows(recipe, load_roles(recipe)[0])
    given["roles"]["stream"]["mix"] = {"old": 0, "new": 1}
    recipe = parse_recipe(given)
    refuse_shared_rows(recipe, load_roles(recipe)[0])  # nothing of it is in the stream


def test_a_retrained_baseline_does_not_see_a_mix_that_holds_what_is_forgotten() -> None:
    given = raw()
    given["stages"] = given["stages"][::-1]
    found = Retrain(on="new", forget="old")(parse_recipe(given))
    assert [stage.objective[0]["on"] for stage in found.stages] == ["new"]


def test_shares_in_tokens_of_a_recipes_model(tmp_path: Path) -> None:
    from palimpsest.adapters.causal_lm import CausalLM
    from palimpsest.zoo.models import tiny_llama

    model, tokenizer = tiny_llama(259)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    found = rows_of(
        {"mix": {"old": 0.25, "new": 0.75}, "tokens": 4000},
        model={"pretrained": str(tmp_path)},
        roles={
            "old": {"zoo": "instructions", "rows": 40},
            "new": {"zoo": "refusals"},
            "test": {"zoo": "instructions", "rows": 2},
        },
        audits={"test": ["perplexity"]},
        stages=[{**raw()["stages"][1]}],
    )
    adapter = CausalLM(tokenizer)
    spent = {True: 0, False: 0}
    for row in found:
        spent["prompt" in row] += adapter.count(adapter.collate([adapter.encode(row)]), "token")
    assert abs(spent[True] - 1000) < 60 and abs(spent[False] - 3000) < 60


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mix": ["old"], "rows": 3}, r"roles\.stream\.mix: write the share of each role"),
        ({"mix": {"old": 0.1, "new": 0.8}, "rows": 3}, r"roles\.stream\.mix: The shares sum to 0\.9; let them"),
        ({"mix": {"old": 1}, "rows": 3}, r"roles\.stream\.mix: A mix takes shares of at least two"),
        ({"mix": {"old": 0.5, "neu": 0.5}, "rows": 3}, r"roles\.stream: 'neu' is no other role; did you mean new\?"),
        ({"mix": {"old": 0.5, "new": 0.5}}, r"roles\.stream: a mix has a total of rows or of tokens; give one"),
        ({"mix": {"old": 0.5, "new": 0.5}, "rows": 0}, r"roles\.stream\.rows: give a whole number from 1 to"),
        ({"mix": {"old": 0.5, "new": 0.5}, "rows": 10**30}, r"roles\.stream\.rows: give a whole number from 1 to"),
        ({"mix": {"old": 0.5, "new": 0.5}, "rows": 3, "seed": "x"}, r"roles\.stream\.seed: give a whole number"),
        ({"mix": {"old": 0.5, "new": 0.5}, "row": 3}, r"roles\.stream\.row: there is no such key; .*rows\?"),
        ({"mix": {"old": 0.5, "new": 0.5}, "tokens": 3}, r"roles\.stream\.tokens: only rows of a language model"),
        ({"mix": {"old": "a", "new": 0.5}, "rows": 3}, r"roles\.stream\.mix: The share of 'old' lies in"),
    ],
)
def test_a_mix_that_cannot_be_made_is_a_sentence(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        rows_of(spec)


def test_a_mix_of_mixes_is_refused() -> None:
    given = raw()
    given["roles"]["other"] = {"mix": {"stream": 0.5, "new": 0.5}, "rows": 3}
    with pytest.raises(RecipeError, match=r"roles\.other: 'stream' is itself made of roles"):
        parse_recipe(given)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float, int]]:
    """(step, rate, number of parameters that the optimizer remembers) of every step of every stage."""
    found: list[tuple[int, float, int]] = []
    real, make = loop.learning_rate, loop.make_optimizer
    made: list[torch.optim.Optimizer] = []

    def making(*arguments: Any) -> torch.optim.Optimizer:
        made.append(make(*arguments))
        return made[-1]

    def recording(training: Training, step: int, steps: int) -> float:
        value = real(training, step, steps)
        if not found or (step, value) != found[-1][:2]:
            found.append((step, value, len(made[-1].state)))
        return value

    monkeypatch.setattr(loop, "learning_rate", recording)
    monkeypatch.setattr(loop, "make_optimizer", making)
    return found


class Killing(Quiet):
    """Ends the run after a step of the second stage, once."""

    def __init__(self, after: int) -> None:
        self.after: int | None = after

    def progress(self, label: str, progress: Progress) -> None:
        """Like Ctrl-C."""
        if progress.steps == 25 and progress.step == self.after:
            self.after = None
            raise KeyboardInterrupt


def weights(out: Path) -> dict[str, torch.Tensor]:
    from palimpsest.checkpoint import read_tensors

    (file,) = (out / "seed-0" / "after").glob("*-second/model.safetensors")
    return read_tensors(file)[0]


def test_a_new_stage_re_warms_and_a_killed_one_goes_on(rates: list[tuple[int, float, int]], tmp_path: Path) -> None:
    recipe: Recipe = parse_recipe(raw())
    run(recipe, tmp_path / "whole")
    curve = Rewarm(0.2, 0.1)
    expected = [(s, 1e-3 * curve(s / 10)) for s in range(10)] + [(s, 5e-4 * curve(s / 25)) for s in range(25)]
    assert [(step, pytest.approx(rate)) for step, rate, _ in rates] == expected
    assert rates[10][1] == 0.0 and rates[10][2] == 0, "the second stage starts at 0 with a fresh optimizer"
    whole = [(step, rate) for step, rate, _ in rates]
    rates.clear()
    events = Killing(12)
    with pytest.raises(Interrupted, match="after step 12 of 25"):
        run(recipe, tmp_path / "killed", events=events)
    assert [(step, rate) for step, rate, _ in rates] == whole[:22]
    rates.clear()
    run(recipe, tmp_path / "killed", events=events)
    assert [(step, rate) for step, rate, _ in rates] == whole[22:], "it goes on in the middle of its curve"
    assert rates[0][2] > 0, "with the optimizer that it had"
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_warm_up_is_enough() -> None:
    with pytest.raises(ValueError, match=r"Rewarm warms up over 0\.01 .* warmup 0\.1 .* set one of the two to 0"):
        Training(steps=1, warmup=0.1, schedule=Rewarm())
    for schedule in (Rewarm(0.0), WSD(0.0), Cosine()):
        assert Training(steps=1, warmup=0.1, schedule=schedule).warmup == 0.1
    given = raw()
    given["stages"][0]["train"]["warmup"] = 0.1
    with pytest.raises(RecipeError, match=r"stages\.0\.train: The schedule Rewarm warms up over"):
        parse_recipe(given)


UPON = {"infinite": {"warmup": 0.0, "cooldown": 0.0, "annealing": 0.2}}


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        ({"infinite": {}}, UPON, True),
        ("cosine", UPON, True),
        ("wsd", UPON, True),
        ({"infinite": {"annealing": 0.0}}, UPON, False),
        ({"wsd": {"decay": 0.0}}, UPON, False),
        (None, UPON, False),
        ({"infinite": {}}, {"infinite": {"warmup": 0.1, "cooldown": 0.0, "annealing": 0.2}}, False),
    ],
    ids=str,
)
def test_a_plateau_after_an_annealed_stage_is_told_and_stands_in_the_report(
    first: Any, second: Any, warned: bool, tmp_path: Path
) -> None:
    given = raw()
    for stage, schedule in zip(given["stages"], (first, second)):
        stage["train"] = {"steps": 3, "batch": 8, "lr": 1e-3} | ({} if schedule is None else {"schedule": schedule})
    told: list[str] = []

    class Listening(Quiet):
        def note(self, text: str) -> None:
            told.append(text)

    report = run(parse_recipe(given), tmp_path, events=Listening())
    assert list(report.warnings) == told and len(told) == warned
    if warned:
        assert told[0].startswith(
            "stages.1.train.schedule: this stage goes on at its plateau, a rate of 0.00055, though first"
        )
