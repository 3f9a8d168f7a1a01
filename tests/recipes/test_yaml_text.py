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
        ("<<", "<<"),
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
        ("a: {<<: {}, <<: {}}\n", 1, "the key '<<' stands here twice"),
        ("a: &a {b: 1}\nc: {d: 1, <<: *a, d: 2}\n", 2, "the key 'd' stands here twice"),
        ("a: 1\nb: &b {<<: *b}\n", 2, "a mapping that merges itself"),
        ("a: {<<: 3}\n", 1, "<< takes a mapping, such as *anchor, or a list of them"),
        ("a: {<<: [{}, 3]}\n", 1, "<< takes a mapping, such as *anchor, or a list of them"),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{<<: *a, y: 3}", {"x": 1, "y": 3}),
        ("{y: 3, <<: *a}", {"x": 1, "y": 3}),  # wherever it stands, what is written out counts
        ("{<<: [*b, *a]}", {"x": 5, "y": 2, "z": 6}),  # the first of several
        ("{<<: [*a, *b], z: 0}", {"x": 1, "y": 2, "z": 0}),
        ("{<<: *c, w: 8}", {"x": 1, "y": 4, "w": 8}),  # what merges may be merged
        ("{in: {<<: *a}, <<: {in: 0, x: 7}}", {"in": {"x": 1, "y": 2}, "x": 7}),
        ("{x: {<<: *a, x: {<<: *b}}}", {"x": {"x": {"x": 5, "z": 6}, "y": 2}}),
        ("{<<: []}", {}),
        ("{'<<': *a}", {"<<": {"x": 1, "y": 2}}),  # in quotes it is a key like any other
    ],
)
def test_merge_keys(text: str, value: object) -> None:
    anchors = "a: &a {x: 1, y: 2}\nb: &b {x: 5, z: 6}\nc: &c {<<: *a, y: 4}\n"
    found = parse(f"{anchors}found: {text}\nagain: *c\n")
    assert found["found"] == value
    assert found["a"] == {"x": 1, "y": 2} and found["c"] == found["again"] == {"x": 1, "y": 4}
    assert parse(dump(found)) == found


def test_a_mapping_is_merged_before_it_is_read_itself() -> None:
    assert parse("in: {deep: &a {<<: {x: 1, k: 0}, k: 1}}\n<<: *a\n") == {
        "in": {"deep": {"x": 1, "k": 1}},
        "x": 1,
        "k": 1,
    }


def test_merges_that_multiply_themselves_end() -> None:
    first = "a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(50)) + "}\n"
    rest = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 50)}], n{i}: 1}}\n" for i in range(1, 60)]
    with pytest.raises(NotYaml, match="merge keys bring in more than 100,000 values"):
        parse(first + "".join(rest))


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


@pytest.mark.parametrize("text", ["true: 1\nTrue: 2", "1: a\n0x1: b", "x: {1: a, 1.0: b}"])
def test_equal_keys_that_are_written_in_two_ways_are_refused(text: str) -> None:
    with pytest.raises(NotYaml, match="twice"):
        parse(text)
