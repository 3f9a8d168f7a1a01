"""Every objective file keeps the promises of ``objective_checks``, on every kind of model that its card names."""

from __future__ import annotations

from functools import cache

import objective_checks as contract
import pytest

from palimpsest import names
from palimpsest.card import docstring_of, parse_card

NAMES = sorted(names.names("objectives"))


def kinds(name):
    try:
        return contract.kinds_of(name)
    except ValueError:  # test_card says what is wrong with it
        return []


CASES = [
    pytest.param(name, kind, check, id=f"{name}-{kind}-{check}")
    for name in NAMES
    for kind in kinds(name)
    for check, (_, meant_for) in contract.CHECKS.items()
    if kind in meant_for
]


@cache
def setting(name, kind):
    return contract.setting(names.build(name, "objectives"), kind)


@pytest.mark.parametrize(("name", "kind", "check"), CASES)
def test_promise(name, kind, check):
    contract.CHECKS[check][0](setting(name, kind))


@pytest.mark.parametrize("name", NAMES)
def test_built_from_its_own_dump(name):
    objective = names.build(name, "objectives")
    assert list(names.dump(objective)) == [name]
    assert names.build(names.dump(objective), "objectives") == objective


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = parse_card(docstring_of(names.names("objectives")[name]))
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith("."), "the first line is a sentence"
    assert kinds(name), f"name the kind of model in Tags ({', '.join(contract.KINDS)}), or give the contract a new kind"
    needs = names.build(name, "objectives").needs
    for companion, words in (("ref", ("ref",)), ("teacher", ("teacher",))):
        stated = any(word in card.needs.replace(".", "").replace(",", "").split() for word in words)
        assert stated == (companion in needs), f"the card's Needs and the class's needs disagree about {companion!r}"


def test_every_objective_is_found():
    assert {"cross_entropy", "npo", "flat", "inverted_hinge", "preference", "uniform", "random_label"} <= set(NAMES)
