"""Losses, optimizers, layers and selectors meet in a recipe: what goes together runs, what does not says why."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import RecipeError, parse_recipe
from palimpsest.run import run

DIGITS: dict[str, Any] = {
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {"task": {"zoo": "digits", "classes": [0, 1, 2, 3, 4]}},
    "objective": [{"on": "task", "cross_entropy": {}}],
    "train": {"steps": 3, "batch": 20, "lr": 1e-3},
    "audits": {"task": ["accuracy"]},
}
FEW: dict[str, Any] = {"task": {"class_batches": {"classes": 5, "rows_of_each": 4}}}


def terms(*methods: dict[str, Any] | str) -> list[dict[str, Any]]:
    return [{"on": "task", **({m: {}} if isinstance(m, str) else m)} for m in methods]


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": terms("cross_entropy", {"multi_similarity": {}, "weight": 0.1}), "select": FEW},
        {"objective": terms({"reweighted": {"objective": {"tversky": {}}}}), "select": FEW},
        {"objective": terms("dice", "lse_square"), "layers": {"multi_sample_dropout": {"samples": 2}}},
        {
            "objective": terms({"spherical_z": {"shift": 2.0}}),
            "layers": {"spherical_output": {}},
            "train": {**DIGITS["train"], "schedule": "cosine", "warmup": 0.5, "loop": "trainer"},
        },
        {
            "objective": terms({"confidence_limited": {"samples": 4}}),
            "layers": {"lost": {"targets": ["0", "2"]}},
            "train": {**DIGITS["train"], "optimizer": {"frugal": {"modules": ["0", "2"]}}, "schedule": "wsd_s"},
            "mask": {"salun": {"role": "task"}},
        },
        {
            "train": {
                **DIGITS["train"],
                "optimizer": {"fira": {"rank": 4, "modules": ["0", "2"]}},
                "schedule": "infinite",
            }
        },
    ],
    ids=lambda c: ", ".join(c),
)
def test_what_goes_together_runs(changes: dict[str, Any], tmp_path: Path) -> None:
    run(parse_recipe(copy.deepcopy(DIGITS) | changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"objective": terms("multi_similarity"), "train": {**DIGITS["train"], "accumulation": 2}},
            r"stages.0.objective.0: task/multi_similarity compares the rows .* set train.accumulation to 1\.",
        ),
        (
            {"objective": terms("cross_entropy", {"dice": {"granularity": "batch"}})}
            | {"train": {**DIGITS["train"], "accumulation": 2}},
            r"stages.0.objective.1: task/dice compares the rows .* set train.accumulation to 1\.",
        ),
        (
            {"select": FEW, "train": {**DIGITS["train"], "batch": 16}},
            r"stages.0.train.batch: .* makes batches of 20 rows, and 16 is no multiple of it; choose one\.",
        ),
        (
            {"train": {**DIGITS["train"], "schedule": "wsd", "warmup": 0.1}},
            r"The schedule WSD warms up over .* set one of the two to 0",
        ),
        (
            {"layers": "lost", "lora": {"rank": 2}},
            r"stages.0.layers: they would replace parts of what lora adds; remove one of the two\.",
        ),
    ],
)
def test_what_does_not_is_refused_before_anything_is_loaded(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        parse_recipe(copy.deepcopy(DIGITS) | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": "spherical_output"}, r"train it with spherical_z, or leave spherical_output away\."),
        ({"train": {**DIGITS["train"], "optimizer": "fira"}}, r"Fira finds no matrix to split: .* name parts of the"),
        (
            {"select": {"task": {"class_batches": {"classes": 10, "rows_of_each": 2}}}},
            r"task: Only 5 classes have 2 rows",
        ),
        (
            {
                "model": {"pretrained": "tiny-llama", "max_length": 96},
                "roles": {"task": {"zoo": "authors", "people": 4, "facts": 1, "forget": 1, "part": "retain"}},
                "objective": terms("multi_similarity"),
                "audits": {"task": ["probability"]},
                "train": {"steps": 2, "batch": 2},
            },
            r"a method here asks for features, which a language model does not give; take another\.",
        ),
    ],
)
def test_what_only_the_model_or_the_rows_can_tell_is_refused_with_its_place(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=sentence) as error:
        run(parse_recipe(copy.deepcopy(DIGITS) | changes), tmp_path / "out")
    assert "stages.0" in str(error.value)
