"""Every schedule is finite on [0, 1], a function of progress alone, and builds from its own dump."""

from __future__ import annotations

import dataclasses
import math

import pytest

from palimpsest import names
from palimpsest.card import docstring_of, parse_card

NAMES = sorted(names.names("schedules"))
PLACES = [i / 200 for i in range(201)]


@pytest.fixture(params=NAMES)
def schedule(request):
    return names.build(request.param, "schedules")


def test_finite_and_not_negative(schedule):
    values = [schedule(p) for p in PLACES]
    assert all(isinstance(v, float) and math.isfinite(v) and v >= 0 for v in values)
    assert max(values) > 0, "a schedule that is 0 everywhere never trains"


def test_depends_on_progress_alone(schedule):
    forwards = [schedule(p) for p in PLACES]
    assert [schedule(p) for p in reversed(PLACES)] == forwards[::-1]


def test_frozen_and_built_from_its_own_dump(schedule):
    assert dataclasses.is_dataclass(schedule) and type(schedule).__dataclass_params__.frozen
    assert names.build(names.dump(schedule), "schedules") == schedule


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = parse_card(docstring_of(names.names("schedules")[name]))
    for field in ("summary", "equation", "paper", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert "schedule" in card.tags
