"""Phases one after the other, the shapes of a decay, and what is refused."""

import itertools
import math

import pytest

from palimpsest.schedules._phases import Phase, at, check_decay, check_shares, decayed, warming

PHASES = [Phase(0.2, warming), Phase(0.0, lambda u: 9.0), Phase(0.5, lambda u: 1.0), Phase(0.3, lambda u: 1 - u)]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.69, 1.0), (0.85, 0.5), (1.0, 0.0), (2.0, 0.0)],
)
def test_each_place_lies_in_one_phase_and_a_phase_of_length_0_in_none(place, value):
    assert at(place, PHASES) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        ("linear", 0.55),
        ("inverse", 1 / (0.5 / 0.1 + 0.5)),
        ("cosine", 0.55),
        ("one_minus_sqrt", 0.1 + 0.9 * (1 - math.sqrt(0.5))),
        ("exponential", math.sqrt(0.1)),
    ],
)
def test_a_decay_falls_from_1_to_the_floor(shape, middle):
    values = [decayed(i / 20, 0.1, shape) for i in range(21)]
    assert values[0] == pytest.approx(1.0) and values[-1] == pytest.approx(0.1) and values[10] == pytest.approx(middle)
    assert all(a > b for a, b in itertools.pairwise(values))


def test_refused():
    check_shares(warmup=0.5, decay=0.5)
    check_decay(0.0, "linear")
    with pytest.raises(ValueError, match=r"decay is a share of the stage in \[0, 1\], not 1.5"):
        check_shares(decay=1.5)
    with pytest.raises(ValueError, match=r"longer than the stage \(warmup 0.6 \+ decay 0.5\); shorten them"):
        check_shares(warmup=0.6, decay=0.5)
    with pytest.raises(ValueError, match=r"floor lies in \[0, 1\], not -0.1"):
        check_decay(-0.1, "linear")
    with pytest.raises(ValueError, match=r"not 'steps'; choose one of them"):
        check_decay(0.1, "steps")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape inverse never reaches 0"):
        check_decay(0.0, "inverse")
