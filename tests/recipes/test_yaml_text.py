"""The scalars of YAML 1.2, and nothing in silence."""

from __future__ import annotations

import math

import pytest
import yaml

from palimpsest.recipe import plain
from palimpsest.recipe_parts import compile_objective, compile_training
from palimpsest.recipe_source import parse_recipe
from palimpsest.yaml_text import NotYaml, dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("5E3", 5000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("~", None),
        ("", None),
        ("null", None),
        ("1e", "1e"),
        ("e5", "e5"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse(f"key: {text}")["key"]
    assert found == value and type(found) is type(value)
    assert parse(dump({"key": found})) == {"key": found}
    assert parse(dump({"key": text})) == {"key": text}  # the text itself, quoted where it must be


def test_on_is_a_key() -> None:
    assert parse("{on: forget, npo: {beta: 1e-1}}") == {"on": "forget", "npo": {"beta": 0.1}}
    assert parse("on: {1: x}") == {"on": {1: "x"}}
    assert dump({"on": "forget"}) == "on: forget\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands here twice"),
        ("a:\n  b: [1\n", 3, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "character"),
        ("a: !!python/name:os.system\n", 1, "could not determine a constructor"),
        ("a: !!timestamp 2024-01-01\n", 1, "could not determine a constructor"),
        ("<<: *base\n", 1, "found undefined alias"),
        ("a: !!bool maybe\n", None, "a tag such as !!bool stands before another kind of value"),
        ("a: 1\n--- \nb: 2\n", 2, "found another document"),
    ],
)
def test_errors_name_the_line(text: str, line: int | None, says: str) -> None:
    with pytest.raises(NotYaml) as raised:
        parse(text)
    assert raised.value.line == line and says in raised.value.reason


def test_only_plain_data_is_written() -> None:
    with pytest.raises(ValueError, match="not a object"):
        dump({"a": object()})
    shared = [1]
    assert dump({"a": shared, "b": shared}) == "a:\n- 1\nb:\n- 1\n"  # no anchors


def test_a_recipe_that_was_read_by_a_loader_of_yaml_1_1() -> None:
    """PyYAML's own loaders make True of the key ``on`` and a text of 1e-3."""
    text = """
    model: {pretrained: tiny-llama}
    roles: {a: {zoo: probes}}
    objective: [{on: a, cross_entropy: {}, weight: 1e-3}]
    train: {steps: 1, lr: 1e-3}
    audits: {a: [perplexity]}
    """
    raw = yaml.safe_load(text)
    assert True in raw["objective"][0]
    recipe = parse_recipe(raw)
    others = {key: value for key, value in plain(parse_recipe(parse(text))).items() if key != "stages"}
    assert others.items() <= plain(recipe).items()
    (term,) = recipe.stages[0].objective
    assert term["on"] == "a" and set(term) == {"on", "cross_entropy", "weight"}
    total = compile_objective(recipe.stages[0], "stages.0")
    assert total is not None and total.terms[0].weight == 1e-3
    assert compile_training(recipe.stages[0], "stages.0").lr == 1e-3
