"""Figures of per-step curves: hand examples, brute force, bounds, and what is refused."""

import math

import numpy as np
import pytest

from palimpsest.continual import forgetting_initial
from palimpsest.curves import (
    StepCurves,
    forgetting_so_far,
    gap,
    gap_area,
    gap_depth,
    largest_drop,
    largest_rise,
    learning_curve_area,
    performance_so_far,
    share_recovered,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_performance,
    worst_of_earlier,
)


def hand(better="higher"):
    """Task 1: .9 when taught, then .5 .6 .8; task 2: .2 .6 .9."""
    sign = 1 if better == "higher" else -1
    first = {"one": [(1, 0.9 * sign)]}
    second = {
        name: [(i + 1, v * sign) for i, v in enumerate(values)]
        for name, values in {"one": [0.5, 0.6, 0.8], "two": [0.2, 0.6, 0.9]}.items()
    }
    return StepCurves.joined([first, second], {"one": 1, "two": 2}, better=better)


def drawn(seed, lengths=(7, 5, 6), every=1):
    """Random curves of as many tasks as stages, all of them measured from the start."""
    rng = np.random.default_rng(seed)
    taught = {f"t{i}": i + 1 for i in range(len(lengths))}
    table = rng.random((sum(lengths) + 1, len(lengths)))
    stages, start = [], 0
    for length in lengths:
        kept = sorted({*range(0, length + 1, every), length})
        stages.append({name: [(n, table[start + n, i]) for n in kept] for i, name in enumerate(taught)})
        start += length
    return StepCurves.joined(stages, taught, better="higher", every=every)


def test_hand_example():
    curves = hand()
    assert curves.steps == (1, 2, 3, 4) and curves.ends == (1, 4)
    assert performance_so_far(curves) == pytest.approx(0.85) and forgetting_so_far(curves) == pytest.approx(0.1)
    assert worst_of_earlier(curves) == 0.5 and worst_case_performance(curves) == pytest.approx(0.7)
    for window, drop, rises in ((2, 0.4, (0.2, 0.4)), (3, 0.4, (0.3, 0.7)), (10, 0.4, (0.3, 0.7))):
        assert windowed_forgetting(curves, window) == pytest.approx(drop / 2)
        assert windowed_plasticity(curves, window) == pytest.approx(sum(rises) / 2)
    assert learning_curve_area(curves, 1) == pytest.approx((0.9 + 0.2) / 2)
    assert learning_curve_area(curves, 3) == pytest.approx((0.2 + 0.6 + 0.9) / 3)
    assert learning_curve_area(curves, 4) is None
    assert windowed_forgetting(curves, 2, at=1) == 0.0 and performance_so_far(curves, 1) == 0.9


def test_losses_are_turned():
    curves, lower = hand(), hand("lower")
    assert worst_of_earlier(lower) == -worst_of_earlier(curves)
    assert worst_case_performance(lower) == pytest.approx(-worst_case_performance(curves))
    assert forgetting_so_far(lower) == pytest.approx(forgetting_so_far(curves))
    assert windowed_forgetting(lower, 3) == windowed_forgetting(curves, 3)
    assert windowed_plasticity(lower, 3) == windowed_plasticity(curves, 3)
    assert gap([0, 1], [1.0, 3.0], better="lower").depth == 2.0 == gap([0, 1], [3.0, 1.0], better="higher").depth


def test_one_task_has_no_earlier_ones():
    curves = StepCurves.joined([{"one": [(0, 0.1), (1, 0.7), (2, 0.4)]}], {"one": 1}, better="higher")
    assert worst_of_earlier(curves) is None and forgetting_so_far(curves) is None
    assert worst_case_performance(curves) == performance_so_far(curves) == 0.4
    assert learning_curve_area(curves, 2) == pytest.approx((0.1 + 0.7) / 2)


def brute(values, window, sign):
    return max(
        [
            0.0,
            *(
                sign * (values[n] - values[m])
                for m in range(len(values))
                for n in range(m + 1, min(m + window, len(values)))
            ),
        ]
    )


@pytest.mark.parametrize("seed", range(20))
def test_windows_against_brute_force(seed):
    values = np.random.default_rng(seed).random(23)
    drops = [largest_drop(values, w) for w in range(2, 30)]
    rises = [largest_rise(values, w) for w in range(2, 30)]
    assert drops == pytest.approx([brute(values, w, -1) for w in range(2, 30)], abs=1e-15)
    assert rises == pytest.approx([brute(values, w, 1) for w in range(2, 30)], abs=1e-15)
    assert drops == sorted(drops) and rises == sorted(rises)  # they do not fall with the window
    grown = [largest_drop(values[:n], 5) for n in range(1, 24)]
    assert grown == sorted(grown)  # nor with time


def test_constant_and_monotone_curves():
    assert largest_drop([0.5] * 9, 4) == largest_rise([0.5] * 9, 4) == 0.0
    assert largest_drop([0.1, 0.2, 0.4], 3) == 0.0 and largest_rise([0.1, 0.2, 0.4], 3) == pytest.approx(0.3)
    assert largest_drop([0.3], 2) == 0.0
    curves = StepCurves.joined(
        [{"one": [(1, 0.8)]}, {"one": [(1, 0.8), (2, 0.8)], "two": [(1, 0.8), (2, 0.8)]}],
        {"one": 1, "two": 2},
        better="higher",
    )
    assert worst_of_earlier(curves) == performance_so_far(curves) == worst_case_performance(curves) == 0.8


@pytest.mark.parametrize("seed", range(5))
def test_bounds(seed):
    curves = drawn(seed)
    for at in curves.steps[9:]:
        worst, case = worst_of_earlier(curves, at), worst_case_performance(curves, at)
        place = curves.place(at)
        old = [curves.values[place, t] for t in curves.seen(place) if curves.taught[t] < curves.stage(place)]
        assert worst <= np.mean(old) + 1e-12 and case <= performance_so_far(curves, at) + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_measuring_rarely(seed):
    """It can only miss what is worst; at the ends of stages alone it is the stage matrix."""
    full, rare, ends = drawn(seed), drawn(seed, every=3), drawn(seed, every=100)
    assert full.ends == rare.ends == ends.ends and len(rare.steps) < len(full.steps)
    assert worst_of_earlier(rare) >= worst_of_earlier(full) and worst_case_performance(rare) >= worst_case_performance(
        full
    )
    assert forgetting_so_far(full) == forgetting_so_far(ends) == pytest.approx(forgetting_initial(full.matrix))
    assert np.array_equal(full.matrix.values, ends.matrix.values)


def test_what_was_known_before_counts_from_the_start():
    stage = {"general": [(0, 0.9), (1, 0.3), (2, 0.8)], "new": [(0, 0.1), (1, 0.5), (2, 0.7)]}
    curves = StepCurves.joined([stage], {"general": 0, "new": 1}, better="higher")
    assert worst_of_earlier(curves) == 0.3 and forgetting_so_far(curves) == pytest.approx(0.1)
    assert worst_of_earlier(curves, 0) is None  # nothing has happened to it yet
    assert learning_curve_area(curves, 2) == pytest.approx(0.3)
    assert curves.during("general", 1) == ([0, 1, 2], [0.9, 0.3, 0.8])


def test_the_measurement_before_a_stage_adds_only_what_was_not_measured():
    first = {"one": [(0, 0.1), (2, 0.9)]}
    second = {"one": [(0, 0.9), (1, 0.4), (2, 0.7)], "two": [(0, 0.2), (1, 0.5), (2, 0.8)]}
    curves = StepCurves.joined([first, second], {"one": 1, "two": 2}, better="higher", every=2)
    assert curves.steps == (0, 2, 3, 4) and curves.every == 2
    assert math.isnan(curves.values[0, 1]) and curves.values[1].tolist() == [0.9, 0.2]
    assert curves.during("one", 2) == ([2, 3, 4], [0.9, 0.4, 0.7])
    assert learning_curve_area(curves, 2) == pytest.approx(((0.1 + 0.9) / 2 + (0.2 + 0.5) / 2) / 2)


def test_gap_hand_curve():
    found = gap(range(5), [0.36, 0.33, 0.35, 0.38, 0.37], better="higher")
    assert (found.depth, found.area, found.peak) == pytest.approx((0.03, 0.04, 0.38))
    assert found.recovery == 3 and found.peak_after == 3
    assert gap(range(3), [0.1, 0.2, 0.3], better="higher") == gap(range(3), [0.1, 0.2, 0.3], better="higher")
    rising = gap(range(3), [0.1, 0.2, 0.3], better="higher")
    assert (rising.depth, rising.recovery, rising.area) == (0.0, 0, 0.0)
    falling = gap(range(3), [0.3, 0.2, 0.1], better="higher")
    assert falling.recovery is None and falling.depth == pytest.approx(0.2) and falling.peak_after == 0
    wide = gap([100, 110, 150], [0.5, 0.4, 0.5], better="higher")
    assert wide.recovery == 50 and wide.area == pytest.approx(1.0)
    early = gap(range(5), [0.5, 0.4, 0.6, 0.3, 0.4], better="higher")  # back once, but before the lowest point
    assert early.recovery is None


@pytest.mark.parametrize(
    ("stages", "taught", "says"),
    [
        ([{"a": [(2, 0.1), (1, math.nan)]}], {"a": 1}, "no finite value"),
        ([{"a": [(1, 0.1)]}, {"a": [(1, 0.2)]}], {"a": 1, "b": 2}, "b has no finite value"),
        ([{"a": [(1, 0.1)]}], {"a": 2}, "taught by one of the stages 1 to 1"),
        ([{}], {"a": 1}, "must rise"),
    ],
)
def test_bad_streams(stages, taught, says):
    with pytest.raises(ValueError, match=says):
        StepCurves.joined(stages, taught, better="higher")


def test_bad_numbers():
    values = np.zeros((2, 1))
    for steps, ends, says in (((2, 1), (2,), "must rise"), ((1, 3), (2,), "after the last stage"), ((1,), (1,), "fit")):
        with pytest.raises(ValueError, match=says):
            StepCurves(("a",), steps, values, ends, (1,), "higher", 1)
    with pytest.raises(ValueError, match="higher or lower"):
        StepCurves(("a",), (1, 2), values, (2,), (1,), "nearer:x", 1)
    with pytest.raises(ValueError, match="at least 2 values"):
        largest_drop([0.1], 1)
    with pytest.raises(ValueError, match="at least 1"):
        learning_curve_area(hand(), 0)
    with pytest.raises(ValueError, match="Nothing was measured"):
        performance_so_far(hand(), 0)
    with pytest.raises(ValueError, match="one each"):
        gap([0, 1], [0.1], better="higher")
    with pytest.raises(ValueError, match="rising steps"):
        gap([1, 1], [0.1, 0.2], better="higher")


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_gaps_of_earlier_tasks(better):
    curves = hand(better)
    assert gap_depth(curves) == pytest.approx(0.4) and gap_area(curves) == pytest.approx(0.4 + 0.3 + 0.1)
    assert share_recovered(curves) == 0.0
    sign = 1 if better == "higher" else -1
    back = [(0, 0.9 * sign), (4, 0.6 * sign), (8, 0.9 * sign)]
    never = [(0, 0.5 * sign), (4, 0.5 * sign), (8, 0.4 * sign)]
    own = [(0, 0.1 * sign), (4, 0.0 * sign), (8, 1.0 * sign)]
    found = StepCurves.joined([{"one": back, "two": never, "new": own}], {"one": 0, "two": 0, "new": 1}, better=better)
    assert gap_depth(found) == pytest.approx((0.3 + 0.1) / 2) and share_recovered(found) == 0.5
    assert gap_area(found) == pytest.approx((0.3 * 4 + 0.1 * 4) / 2)
    alone = StepCurves.joined([{"new": own}], {"new": 1}, better=better)
    assert gap_depth(alone) is gap_area(alone) is share_recovered(alone) is None
