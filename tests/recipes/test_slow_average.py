"""``reference: {slow_average: …}``: what it may say, and whose weights the stage leaves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import RecipeError, Slow, plain, to_yaml
from palimpsest.recipe_parts import compile_reference
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run
from palimpsest.yaml_text import parse

AUTHORS = {"zoo": "authors", "people": 2, "facts": 2, "forget": 1}
I_LORA = [
    {"on": "forget", "cross_entropy": {}, "weight": 0.5},
    {"on": "retain", "cross_entropy": {}, "weight": 0.5},
    {"on": "retain", "embedding_consistency": {}},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The zoo's tiny-llama, saved once."""
    from palimpsest.zoo.models import tiny_llama

    folder = tmp_path_factory.mktemp("tiny-llama")
    for part in tiny_llama(300, 2, 32):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def raw(tiny: str) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "name": "i-lora",
            "model": {"pretrained": tiny, "max_length": 256},
            "roles": {"forget": {**AUTHORS, "part": "forget"}, "retain": {**AUTHORS, "part": "retain"}},
            "objective": I_LORA,
            "lora": {"rank": 2},
            "reference": {"slow_average": {"decay": 0.5}},
            "train": {"steps": 6, "batch": 2, "lr": 1e-2},
            "audits": {"forget": ["probability"]},
        }
    )


def after(raw: dict[str, Any], folder: Path, **slow: object) -> tuple[float, float]:
    """(before, after) of the audit."""
    raw["reference"] = {"slow_average": slow}
    found = {s.run: s.value for s in run(parse_recipe(copy.deepcopy(raw)), folder).scores}
    return found["before"], found["after"]


def test_the_stage_leaves_the_fast_or_the_slow_weights(raw: dict[str, Any], tmp_path: Path) -> None:
    before, fast = after(raw, tmp_path / "fast", decay=0.5)
    _, slow = after(raw, tmp_path / "slow", decay=0.8, ends="slow")
    _, still = after(raw, tmp_path / "still", decay=1.0, ends="slow")
    assert still == pytest.approx(before, rel=1e-5), "an average that never moves ends where it began"
    assert fast > 1.02 * before
    assert before * 1.01 < slow < fast * 0.98


def test_what_a_reference_may_say() -> None:
    assert compile_reference("slow_average", "stages.0") == Slow()
    assert compile_reference({"slow_average": {"decay": 0.25, "warm": True}}, "stages.0") == Slow(0.25, True, "fast")
    assert compile_reference("copy", "stages.0") == "copy" == compile_reference({"copy": None}, "stages.0")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("coppy", r"^reference: there is no reference 'coppy'; did you mean copy\?"),
        ({"slow_average": {"decay": 2}}, r"reference\.slow_average: decay lies in \[0, 1\], not 2"),
        ({"slow_average": {"decy": 0.5}}, r"reference\.slow_average\.decy: there is no such key; did you mean decay\?"),
        ({"slow_average": 3}, r"reference\.slow_average: write its fields as"),
        ({"slow_average": {"ends": "both"}}, r"reference\.slow_average\.ends: .*'fast' or 'slow'"),
        ({"copy": {"decay": 1}}, r"reference\.copy: it has no fields; write reference: copy"),
        ({}, "there is no reference"),
        ("cached", r"reference: a method here looks inside the reference, .*; write auto or copy"),
    ],
)
def test_what_it_may_not_say(raw: dict[str, Any], reference: object, message: str) -> None:
    raw["reference"] = reference
    with pytest.raises(RecipeError, match=message.replace("^reference", r"^stages\.0\.reference")):
        parse_recipe(raw)


def test_a_slow_average_without_training_is_refused(raw: dict[str, Any]) -> None:
    for key in ("objective", "train", "lora"):
        del raw[key]
    raw["intervention"] = {"logit_difference": {}}
    with pytest.raises(RecipeError, match=r"reference: a slow average follows training, but the stage has none"):
        parse_recipe(raw)


def test_it_is_written_as_it_was(raw: dict[str, Any]) -> None:
    recipe = parse_recipe(raw)
    assert parse_recipe(parse(to_yaml(recipe))) == recipe
    assert plain(recipe)["stages"][0]["reference"] == {"slow_average": {"decay": 0.5}}


def test_auto_runs_a_copy_where_a_method_looks_inside(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["reference"] = "auto"
    run(parse_recipe(raw), tmp_path)
    assert not list(tmp_path.rglob("reference.safetensors"))
