"""Whatever stands in a recipe, the answer is a recipe or one sentence: 2,000 cases, never another exception."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palimpsest.data import load_rows
from palimpsest.recipe import Recipe, RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import load_roles
from palimpsest.yaml_text import NotYaml, dump, parse

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TRAIN = {"steps": 2, "batch": 2, "lr": 1e-3}
LEARN = {"objective": [{"on": "retain", "cross_entropy": {}}], "train": TRAIN}
FULL = {  # every key that a recipe knows
    "name": "full",
    "title": "All keys",
    "model": {"pretrained": "tiny-llama", "chat": True, "chat_template": "chatml", "max_length": 64, "packed": False},
    "roles": {
        "forget": {"file": "forget.jsonl", "columns": {"prompt": "question"}, "rows": 3},
        "retain": "retain.csv",
        "both": ["forget", "retain"],
        "stream": {"mix": {"forget": 0.05, "retain": 0.95}, "rows": 40, "seed": 1},
        "refusal": {"answers": ["No."], "to": "forget", "column": "completion"},
    },
    "stages": [
        {"name": "teach", **LEARN, "combine": "sum", "reference": "copy"},
        {
            "name": "assistant",
            "trains": "assistant",
            "starts": {"truncated_copy": {"layers": 1, "rank": 0}},
            **LEARN,
        },
        {
            "name": "forget",
            "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": ["q_proj"]},
            "edit": {"fila": {}},
            "mask": {"salun": {"fraction": 0.5}},
            "objective": [
                {"on": "forget", "npo": {"beta": 0.1}, "weight": {"ramp": {}}},
                {"on": ["forget", "refusal"], "preference": {}},
            ],
            "train": {**TRAIN, "schedule": {"cosine": {"floor": 0.1}}, "optimizer": "sgd", "warmup": 0.1},
        },
    ],
    "variants": {"other": {"intervention": {"logit_difference": {"alpha": 0.5}}}},
    "audits": {"forget": ["probability", {"rouge": {}}], "both": ["perplexity"]},
    "baselines": ["do_nothing", {"retrain": {"on": "retain"}}, {"gradient_ascent": {"retain_weight": 1.0}}],
    "expect": {"forget/probability": "nearer retrained", "both/perplexity": {"change": "< 3 %"}},
    "seeds": [0, 1],
}
VALID = [*(parse(file.read_text(encoding="utf-8")) for file in FILES), FULL]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**20), 1e308, -0.0, 10**4000]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=30),
    st.text(min_size=1, max_size=3).map(lambda text: text * 400),
    st.sampled_from(["\ud800", "a\nb", "\x00", "\u2028", "../x", "a:b", "x.y:Z", "\x1b[31m", "1e5", "~", "="]),
    st.sampled_from(["forget", "retain", "npo", "cross_entropy", "cosine", "fila", "salun", "chatml", "", "on"]),
)
keys = st.one_of(st.text(max_size=8), st.integers(), st.none(), st.booleans())
values = st.recursive(
    scalars, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(keys, v, max_size=3)), max_leaves=6
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(p for key, v in inner for p in places(v, (*at, key)))]


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """A valid recipe with one to three places deleted, renamed or replaced."""
    recipe = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(recipe)))
        if not place:
            return draw(values)
        here = recipe
        for key in place[:-1]:
            here = here[key]
        what = draw(st.sampled_from(["replace", "replace", "delete", "rename", "swap"]))
        if what == "replace":
            here[place[-1]] = draw(values)
        elif what == "swap":  # a list for a mapping, a mapping for a list
            inner = here[place[-1]]
            here[place[-1]] = list(inner.items()) if isinstance(inner, dict) else {str(inner)[:9]: inner}
        elif what == "delete":
            del here[place[-1]]
        elif isinstance(here, dict):
            here[draw(keys)] = here.pop(place[-1])
        if not recipe:
            return recipe
    return recipe


def one_sentence(act: Any) -> None:
    try:
        assert isinstance(act(), Recipe)
    except RecipeError as error:
        text = str(error)
        assert text.strip() and text.isprintable() and len(text) <= 400, text
        assert text.endswith((".", "?")), text


@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(broken())
def test_a_broken_recipe_is_a_recipe_or_a_sentence(raw: Any) -> None:
    one_sentence(lambda: parse_recipe(raw))


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(VALID), st.text(max_size=40))
def test_a_broken_override_is_a_sentence(raw: Any, override: str) -> None:
    one_sentence(lambda: parse_recipe(raw, [override]))


def test_the_recipes_that_are_broken_here_are_whole() -> None:
    for raw in VALID:
        assert isinstance(parse_recipe(copy.deepcopy(raw)), Recipe)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_text_is_a_recipe_or_a_sentence(data: st.DataObject) -> None:
    """Lines of real recipes in any order, cut anywhere, with any text between them."""
    lines = [line for file in FILES for line in file.read_text(encoding="utf-8").splitlines()]
    lines += [
        *(c * 40 for c in "[{&*!|>-"),
        "&a [*a]",
        "<<: *a",
        "a: &a {b: 1}",
        "b: &b {<<: [*a, *a], c: 2}",
        "c: &c {<<: *c, <<: 1}",
        "!!merge [1]: <<",
        "? [1]",
        "!!int x",
        "!!timestamp x",
        "!!bool x",
        "!!float",
        "!!map [1]",
    ]
    lines += ["---", "a: !x 1", "!!set {a}", "!!binary aGk"]
    text = "\n".join(data.draw(st.lists(st.one_of(st.sampled_from(lines), st.text(max_size=20)), max_size=12)))
    text = text[: data.draw(st.integers(0, 400))]
    try:
        raw = parse(text)
    except NotYaml as error:
        assert "\n" not in str(error)
        return
    one_sentence(lambda: parse_recipe(raw))


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda v: st.one_of(st.lists(v), st.dictionaries(st.one_of(st.text(), st.integers(), st.booleans()), v)),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(plain)
def test_what_is_written_as_yaml_is_read_back(value: Any) -> None:
    """Also texts that look like numbers, dates or booleans, and breaks of lines that only Unicode knows."""
    assert parse(dump(value)) == value


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")),
        st.lists(
            st.sampled_from(
                ['{"text": "a b"}', '{"id": 1}', "[", "]", "1", '"', "a,b", "", '"a\nb",c', "\x00", "{}", "NaN"]
            ),
            max_size=5,
        ).map(lambda lines: "\n".join(lines).encode()),
    ),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".txt", ""]),
)
def test_any_file_is_rows_or_a_sentence(tmp_path_factory: Any, content: bytes, ending: str) -> None:
    file = tmp_path_factory.getbasetemp() / f"fuzzed{ending}"
    file.write_bytes(content)
    try:
        rows = load_rows(str(file))
    except ValueError as error:
        assert str(file) in str(error) and str(error).endswith("."), error
    else:
        assert rows and all(isinstance(row, dict) for row in rows)


locations = st.one_of(
    st.text(max_size=20).filter(lambda t: "/" not in t),  # a name with a slash may be one of the hub
    st.sampled_from(["rows.jsonl", "~nobody/x.csv", ".", "..", "a" * 300, "\x00", "rows.jsonl\n", "/dev/null"]),
)
role_specs = st.one_of(
    locations,
    st.fixed_dictionaries({"file": st.one_of(locations, scalars)}, optional={"rows": scalars, "columns": values}),
    st.fixed_dictionaries({"answers": values, "to": st.sampled_from(["good", "x", ""])}, optional={"column": scalars}),
    st.fixed_dictionaries(
        {"zoo": st.sampled_from(["authors", "digits", "refusals", "general_text", "nothing", ""])},
        optional={
            "part": st.one_of(scalars, st.sampled_from(["forget", "test"])),
            "classes": st.one_of(scalars, st.lists(st.integers(-1, 11), max_size=3)),
            "without": st.lists(st.integers(0, 9), max_size=10),
            "rows": st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.integers(-2, 40)),
            "test": st.floats(),
        },
    ),
    st.lists(st.sampled_from(["good", "x", "tested"]), max_size=3),
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(role_specs)
def test_any_role_is_rows_or_a_sentence(tmp_path_factory: Any, spec: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    raw = {**FULL, "roles": {"good": "rows.jsonl", "tested": spec}, "stages": [], "audits": {"good": ["probability"]}}
    try:
        recipe = parse_recipe(raw, audit_only=True)
        rows, answers = load_roles(recipe, folder)
    except RecipeError as error:
        assert str(error).startswith(("roles.tested", "audits")) and str(error).endswith((".", "?")), error
    else:
        assert rows["good"] and ("tested" in rows or "tested" in answers)


def test_a_number_of_more_digits_than_python_prints() -> None:
    """In every place of a recipe, one after the other."""
    for place in places(FULL)[1:]:
        raw = copy.deepcopy(FULL)
        here: Any = raw
        for key in place[:-1]:
            here = here[key]
        here[place[-1]] = 10**5000
        one_sentence(lambda raw=raw: parse_recipe(raw))
