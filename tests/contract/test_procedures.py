"""Every procedure has a whole card; one that trains a model is frozen, built from its dump, and called as fit is."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from palimpsest import names
from palimpsest.card import docstring_of, parse_card
from palimpsest.procedure import Procedure, takes
from palimpsest.zoo.authors import authors

NAMES = sorted(names.names("procedures"))


@pytest.mark.parametrize("name", NAMES)
def test_card(name: str) -> None:
    card = parse_card(docstring_of(names.names("procedures")[name]))
    for field in ("summary", "equation", "paper", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"


@pytest.mark.parametrize("name", NAMES)
def test_one_that_trains_is_called_as_fit_is(name: str) -> None:
    method = names.resolve(name, "procedures")
    if not (dataclasses.is_dataclass(method) and "training" in inspect.signature(method.__call__).parameters):
        pytest.skip("it makes a companion, or is called from Python")
    assert method.__dataclass_params__.frozen
    built = names.build(name, "procedures")
    assert names.build(names.dump(built), "procedures") == built
    wanted = list(inspect.signature(Procedure.__call__).parameters.values())
    given = inspect.signature(method.__call__).parameters
    assert [p.name for p in wanted] == list(given)
    assert all(given[p.name].kind == p.kind and given[p.name].default == p.default for p in wanted)


@pytest.mark.parametrize("name", NAMES)
def test_one_that_rewrites_rows_keeps_their_order_and_ids(name: str) -> None:
    method = names.resolve(name, "procedures")
    if not (dataclasses.is_dataclass(method) and takes(method.__call__, "rows")):
        pytest.skip("it makes no rows of others")
    assert method.__dataclass_params__.frozen
    built = names.build(name, "procedures")
    assert names.build(names.dump(built), "procedures") == built
    rows = authors(8, 3)
    found = built(rows)
    assert found == built(rows) != rows == authors(8, 3)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
