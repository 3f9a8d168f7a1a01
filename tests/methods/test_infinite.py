"""Warm-up, cooldown, plateau, annealing: the card's values, the ends of each phase, and joins."""

import itertools
import math

import pytest

from palimpsest.loop import Training, learning_rate
from palimpsest.schedules.infinite import Infinite, inverse_square_root_cooldown

SHAPES = ("cosine", "linear", "inverse_square_root")


def card(shape):
    """Phases of 10, 20, 20 and 20 of 70 steps."""
    return Infinite(10 / 70, 20 / 70, 20 / 70, plateau=0.4, floor=0.1, shape=shape)


@pytest.mark.parametrize(("shape", "middle"), [("cosine", 0.7), ("linear", 0.7), ("inverse_square_root", 0.491687)])
def test_by_hand(shape, middle):
    found = [card(shape)(t / 70) for t in (0, 5, 10, 20, 30, 40, 50, 60, 70, 90)]
    assert found == pytest.approx([0, 0.5, 1, middle, 0.4, 0.4, 0.4, 0.2, 0.1, 0.1], abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_jump_between_phases_and_never_up_after_the_warm_up(shape):
    values = [card(shape)(t / 7000) for t in range(7001)]
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 0.003
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values[1000:]))


def test_a_small_timescale_is_a_straight_line():
    for u in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert inverse_square_root_cooldown(u, 1e-6) == pytest.approx(1 - u, abs=1e-6)
        h = [1 / math.sqrt(1 + 10 * v) - 1 for v in (u, 1.0)]
        assert inverse_square_root_cooldown(u, 10.0) == pytest.approx(1 - h[0] / h[1], abs=1e-12)


def test_a_plateau_at_the_peak_is_a_warm_up_and_an_exponential_decay():
    schedule = Infinite(0.1, 0.2, 0.5, plateau=1.0, floor=0.01)
    assert [schedule(p) for p in (0.1, 0.2, 0.5, 0.75, 1.0)] == pytest.approx([1, 1, 1, 0.1, 0.01], abs=1e-12)


def test_phases_that_fill_the_stage_leave_no_plateau():
    schedule = Infinite(0.1, 0.5, 0.4, plateau=0.5, floor=0.1)
    assert schedule(0.6) == pytest.approx(0.5, abs=1e-9) and schedule(0.61) < 0.5 < schedule(0.59)


def test_new_data_enter_on_the_plateau_without_a_jump():
    first = Training(steps=50, lr=1e-3, schedule=Infinite(0.1, 0.3, annealing=0.0))
    second = Training(steps=80, lr=1e-3, schedule=Infinite(0.0, 0.0, annealing=0.25))
    rates = [
        learning_rate(training, step, training.steps) for training in (first, second) for step in range(training.steps)
    ]
    assert rates[20:110] == pytest.approx([0.55e-3] * 90, rel=1e-12)
    assert rates[-1] < 0.2e-3


def test_without_annealing_it_never_leaves_the_plateau():
    assert {Infinite(0.1, 0.2, 0.0)(p) for p in (0.3, 0.5, 0.99, 1.0)} == {0.55}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup": 0.5, "cooldown": 0.5, "annealing": 0.5}, r"longer than the stage"),
        ({"annealing": -0.1}, r"annealing is a share"),
        ({"plateau": 0.05}, r"not in this order"),
        ({"plateau": 1.1}, r"not in this order"),
        ({"floor": 0.0}, r"all above 0"),
        ({"shape": "exponential"}, r"shape is cosine, linear or inverse_square_root"),
        ({"timescale": 0.0}, r"timescale is a finite number above 0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Infinite(**fields)
