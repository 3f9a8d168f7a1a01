"""A straight line between two multipliers."""

import pytest

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.schedules.ramp import Ramp


@pytest.mark.parametrize(
    ("start", "end", "values"),
    [(1.0, 0.0, (1.0, 0.75, 0.0)), (0.0, 0.5, (0.0, 0.125, 0.5)), (2.0, 2.0, (2.0, 2.0, 2.0))],
)
def test_by_hand(start, end, values):
    assert tuple(Ramp(start, end)(p) for p in (0.0, 0.25, 1.0)) == values


def test_the_default_is_linear_decay():
    assert Ramp() == Ramp(1.0, 0.0)


def test_weights_a_term():
    term = 4 * (Ramp(0, 0.5) * on("retain", CrossEntropy()))
    assert [term.weight_at(p) for p in (0.0, 0.5, 1.0)] == [0.0, 1.0, 2.0]
