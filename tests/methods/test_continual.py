"""The figures of a stage matrix: hand examples, identities, what is undefined, and intervals over items and seeds."""

import math

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.continual import (
    FIGURES,
    StageMatrix,
    average_performance,
    backward_transfer,
    figures,
    forgetting_initial,
    forgetting_max,
    forgetting_peak,
    forgotten_per_gained,
    forward_transfer,
    forward_transfer_from_start,
    held_out_change,
    intervals,
    matrix_of,
    overall_performance,
    performance_when_taught,
    trajectory,
)
from palimpsest.statistics import bootstrap, paired_bootstrap

ROWS = [[0.2, 0.1, 0.1], [0.9, 0.1, 0.1], [0.7, 0.8, 0.2], [0.6, 0.75, 0.85]]


def matrix(rows=ROWS, taught=(1, 2, 3), better="higher", chance=(0.1, 0.1, 0.1)):
    return StageMatrix.of(rows, taught, better=better, chance=chance)


def random_matrix(seed, stages=5, better="higher"):
    rng = np.random.default_rng(seed)
    return StageMatrix.of(
        rng.random((stages + 1, stages)).tolist(), range(1, stages + 1), better=better, chance=rng.random(stages)
    )


def test_hand_example():
    m = matrix()
    assert trajectory(m) == pytest.approx([0.9, 0.75, 2.2 / 3])
    assert average_performance(m) == pytest.approx((0.9 + 0.75 + 2.2 / 3) / 3)
    assert performance_when_taught(m) == pytest.approx((0.9 + 0.8 + 0.85) / 3)
    assert forgetting_max(m) == pytest.approx(0.175) and backward_transfer(m) == pytest.approx(-0.175)
    assert forward_transfer(m) == pytest.approx(0.05)  # (.1 - .1 + .2 - .1) / 2
    assert forward_transfer_from_start(m) == pytest.approx(0.05)
    assert forward_transfer_from_start(matrix([[0.2, 0.3, 0.1], *ROWS[1:]])) == pytest.approx(-0.05)


def test_an_improvement_is_kept():
    m = matrix([*ROWS[:3], [0.95, 0.75, 0.85]])
    assert forgetting_max(m) == pytest.approx(0.0) and backward_transfer(m) == pytest.approx(0.0)  # clipped: .025


def test_a_peak_before_the_own_stage_counts_only_in_the_survey_form():
    rows = [[0.2, 0.9, 0.1], [0.9, 0.5, 0.1], [0.9, 0.4, 0.1], [0.9, 0.45, 0.8]]  # .9 before any stage never counts
    m = matrix(rows)
    assert forgetting_max(m) == pytest.approx(0.05 / 2)
    assert forgetting_initial(m) == pytest.approx(-0.05 / 2) == forgetting_peak(m)


@pytest.mark.parametrize("seed", range(5))
def test_against_plain_loops(seed):
    m = random_matrix(seed)
    a, b = m.values, m.chance
    for t in range(2, 6):
        old = range(t - 1)
        assert overall_performance(m, t) == pytest.approx(sum(a[t, i] for i in range(t)) / t)
        assert backward_transfer(m, t) == pytest.approx(sum(a[t, i] - a[i + 1, i] for i in old) / (t - 1))
        survey = [max(a[s, i] for s in range(1, t)) - a[t, i] for i in old]
        assert forgetting_max(m, t) == pytest.approx(sum(survey) / (t - 1))
        peak = [max(a[s, i] for s in range(i + 1, t)) - a[t, i] for i in old]
        assert forgetting_peak(m, t) == pytest.approx(sum(peak) / (t - 1))
        assert forward_transfer(m, t) == pytest.approx(sum(a[i, i] - b[i] for i in range(1, t)) / (t - 1))
        assert forgetting_initial(m, t) == -backward_transfer(m, t)
        assert forgetting_initial(m, t) <= forgetting_peak(m, t) <= forgetting_max(m, t)


def test_relabeled_tasks_give_the_same_figures():
    m = random_matrix(3)
    order = [3, 0, 4, 1, 2]
    taught, chance = (tuple(given[i] for i in order) for given in (m.taught, m.chance))
    turned = StageMatrix(m.values[:, order], taught, "higher", chance)
    assert figures(turned) == pytest.approx(figures(m))


def test_losses_are_turned_and_shown_in_their_own_unit():
    m = random_matrix(1)
    lower = StageMatrix(-m.values, m.taught, "lower", tuple(-c for c in m.chance))
    own = {"overall_performance", "average_performance", "performance_when_taught"}
    for name, value in figures(m).items():
        if value is not None:
            assert figures(lower)[name] == pytest.approx(-value if name in own else value), name
    risen = StageMatrix.of([[9.0, 9.0], [2.0, 8.0], [3.0, 2.0]], (1, 2), better="lower")  # a loss that rose by 1
    assert backward_transfer(risen) == -1.0 and forgetting_max(risen) == 1.0
    assert forward_transfer_from_start(risen) == 1.0


def test_undefined_is_none():
    one = StageMatrix.of([[0.1], [0.9]], (1,), better="higher", chance=[0.1])
    found = figures(one)
    assert found["overall_performance"] == found["average_performance"] == found["performance_when_taught"] == 0.9
    assert all(found[name] is None for name in found if "transfer" in name or "forg" in name or "held" in name)
    assert overall_performance(one, 0) is None and trajectory(one, backward_transfer) == [None]
    assert (
        forward_transfer(matrix(chance=None)) is None and forward_transfer_from_start(matrix(chance=None)) is not None
    )
    assert matrix().seen(0) == []


def test_cells_before_the_own_stage_may_be_missing():
    m = matrix([[None] * 3, [0.9, None, None], [0.7, 0.8, None], [0.6, 0.75, 0.85]])
    assert backward_transfer(m) == pytest.approx(-0.175) and forgetting_peak(m) == pytest.approx(0.175)
    assert forgetting_max(m) is None  # its maximum reaches back before the own stage
    assert forward_transfer(m) is None and forward_transfer_from_start(m) is None


@pytest.mark.parametrize(
    ("retained", "expected"), [((40.0, 30.0), 0.5), ((40.0, 45.0), 0.0)], ids=["forgot", "forgot nothing"]
)
def test_forgotten_per_gained(retained, expected):
    rows = [[retained[0], 10.0, 0.0], [retained[1], 25.0, 5.0]]  # known before any stage, updated, new
    assert forgotten_per_gained(StageMatrix.of(rows, (0, 1, 1), better="higher")) == pytest.approx(expected)


def test_forgotten_per_gained_counts_the_gain_from_each_earlier_model():
    rows = [[50.0, 0.0, 10.0], [45.0, 30.0, 8.0], [40.0, 35.0, 25.0]]
    m = StageMatrix.of(rows, (0, 1, 2), better="higher")
    assert forgotten_per_gained(m) == pytest.approx((10 + 0) / (15 + 17))
    assert forgotten_per_gained(m, 1) == pytest.approx(5 / 30)
    nothing = StageMatrix.of([[40.0, 10.0], [30.0, 10.0]], (0, 1), better="higher")
    assert forgotten_per_gained(nothing) is None and figures(nothing)["forgotten_per_gained"] is None


def test_held_out_tasks():
    rows = [[0.5, 0.6, 0.1], [0.5, 0.6, 0.9]]
    assert held_out_change(StageMatrix.of(rows, (None, None, 1), better="higher")) == 0.0
    rows[1][0] = 0.3
    m = StageMatrix.of(rows, (None, None, 1), better="higher")
    assert held_out_change(m) == pytest.approx(-0.1) and overall_performance(m) == 0.9
    assert held_out_change(StageMatrix(100 * m.values, m.taught, "higher")) == pytest.approx(-10.0)


@pytest.mark.parametrize(
    ("rows", "taught", "better", "says"),
    [
        ([[0.1, 0.2], [0.3]], (1, 1), "higher", "different lengths"),
        ([[0.1], [math.nan]], (1,), "higher", "write None"),
        ([[0.1], [math.inf]], (1,), "higher", "infinite"),
        ([[0.1], [None]], (1,), "higher", "not measured after each stage"),
        ([[0.1], [0.2]], (2,), "higher", "taught by stage 2"),
        ([[0.1], [0.2]], (1, 1), "higher", "does not fit 2 tasks"),
        ([[0.1]], (1,), "higher", "does not fit"),
        ([[0.1], [0.2]], (1,), "nearer:retrained", "higher or lower"),
    ],
)
def test_bad_matrices(rows, taught, better, says):
    with pytest.raises(ValueError, match=says):
        StageMatrix.of(rows, taught, better=better)


def test_the_direction_must_be_said():
    with pytest.raises(TypeError):
        StageMatrix.of(ROWS, (1, 2, 3))
    with pytest.raises(ValueError, match="no stage 4"):
        backward_transfer(matrix(), 4)
    with pytest.raises(ValueError, match="chance levels"):
        matrix(chance=(0.1,))


def scores(values, better="higher", prefix="q"):
    ids = tuple(f"{prefix}{i}" for i in range(len(values)))
    return Scores("accuracy", torch.tensor(values, dtype=torch.float64), ids, better)


def measured(seed, items=80, better="higher"):
    """Two tasks over two stages; an item is right with a chance of its own, so rows go together."""
    rng = np.random.default_rng(seed)
    skill = rng.random((2, items))
    at = [[0.1, 0.1], [0.9, 0.2], [0.6, 0.9]]
    return [[scores((skill[i] < p).astype(float).tolist(), better, f"t{i}/") for i, p in enumerate(row)] for row in at]


def test_matrix_of_scores():
    cells = measured(0)
    m = matrix_of(cells, (1, 2), chance=(0.1, 0.1))
    assert m.values[2, 1] == pytest.approx(float(cells[2][1].items.mean())) and m.better == "higher"


def test_tasks_count_alike_whatever_the_number_of_their_items():
    """Losses of 2 and 3 are 2.5 on average, also where one was measured on four items and the other on forty."""
    small, large = scores([1.0, 3.0, 2.0, 2.0], "lower", "a"), scores([3.0] * 40, "lower", "b")
    cells = [[small, large]] * 2
    assert overall_performance(matrix_of(cells, (1, 1))) == 2.5
    assert intervals([cells], (1, 1), resamples=50)["overall_performance"].value == 2.5


def test_one_task_has_the_interval_of_the_paired_bootstrap():
    """Backward transfer of one earlier task is a paired change of its items."""
    cells = measured(0)
    found = intervals([cells], (1, 2), resamples=4000)
    expected = paired_bootstrap(cells[1][0], cells[2][0], resamples=4000)
    assert found["backward_transfer"].value == pytest.approx(expected.value)
    assert found["backward_transfer"].low == pytest.approx(expected.low, abs=0.015)
    assert found["backward_transfer"].high == pytest.approx(expected.high, abs=0.015)
    own = bootstrap(cells[1][0])
    alone = found["performance_when_taught"]
    assert alone.high - alone.low < own.high - own.low  # two tasks are known better than one


def test_pairing_narrows_the_interval():
    """The items that a later model misses are among those that the earlier one missed."""
    cells = measured(1)
    paired = intervals([cells], (1, 2))["backward_transfer"]
    apart = [[scores(s.items.tolist(), prefix=f"{r}{i}") for i, s in enumerate(row)] for r, row in enumerate(cells)]
    before, after = bootstrap(apart[1][0]), bootstrap(apart[2][0])
    unpaired = math.hypot(before.high - before.low, after.high - after.low)
    assert paired.high - paired.low < 0.9 * unpaired


def test_intervals_over_seeds_and_undefined_figures():
    found = intervals([measured(s) for s in range(3)], (1, 2), resamples=500)
    assert set(found) == set(FIGURES)
    values = [figures(matrix_of(measured(s), (1, 2))) for s in range(3)]
    for name, interval in found.items():
        if interval is None:
            assert values[0][name] is None
        else:
            assert interval.value == pytest.approx(np.mean([v[name] for v in values]))
            assert interval.low <= interval.value <= interval.high
    assert found["forward_transfer"] is None and found["held_out_change"] is None
    again = intervals([measured(s) for s in range(3)], (1, 2), resamples=500)
    assert again == found


def test_cells_that_were_not_measured_have_no_interval_of_what_needs_them():
    cells = measured(0)
    cells[0] = [None, None]
    cells[1] = [cells[1][0], None]
    found = intervals([cells], (1, 2), resamples=200)
    assert found["backward_transfer"] is not None and found["forward_transfer_from_start"] is None


def test_cells_that_do_not_fit_are_refused():
    cells = measured(0)
    with pytest.raises(ValueError, match="different stages or tasks"):
        intervals([cells, cells[:2]], (1, 2))
    with pytest.raises(ValueError, match="one direction"):
        matrix_of([cells[0], measured(0, better="lower")[1]], (1, 1))
    with pytest.raises(ValueError, match="some seeds only"):
        intervals([cells, [[None, None], *cells[1:]]], (1, 2))
    with pytest.raises(ValueError, match="never measured"):
        intervals([[[row[0], None] for row in cells]], (1, None))
    with pytest.raises(ValueError, match="paired by id"):
        intervals([[cells[0], cells[1], [scores([1.0], prefix="other"), cells[2][1]]]], (1, 2))


def test_one_item_and_one_seed_have_no_interval():
    cells = [[scores([0.0])], [scores([1.0])]]
    found = intervals([cells], (1,), resamples=50)["overall_performance"]
    assert found.value == 1.0 and math.isnan(found.low)
