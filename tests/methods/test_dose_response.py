"""Slope and rank correlation of a dose-response curve, and the effect size of two groups of models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.audit import Scores
from palimpsest.dose_response import dose_response, slope, spearman
from palimpsest.statistics import hedges_g_of_groups

DOSES = (0.0, 0.2, 0.5, 0.8, 1.0)
values = st.lists(st.floats(-100, 100), min_size=2, max_size=6).filter(lambda x: np.ptp(x) > 0.01)


def scores(items: np.ndarray) -> Scores:
    return Scores("figure", torch.as_tensor(items), tuple(f"item {i}" for i in range(len(items))))


def test_slope_is_that_of_least_squares() -> None:
    curves = np.random.default_rng(0).normal(size=(7, 5))
    expected = [np.polyfit(DOSES, curve, 1)[0] for curve in curves]
    assert slope(DOSES, curves) == pytest.approx(expected, abs=1e-12)


def test_spearman_against_scipy_ties_included() -> None:
    from scipy.stats import spearmanr

    curves = np.random.default_rng(1).integers(0, 3, size=(20, 5)).astype(float)
    curves = curves[np.ptp(curves, axis=1) > 0]
    assert spearman(DOSES, curves) == pytest.approx([spearmanr(DOSES, c).statistic for c in curves], abs=1e-12)


@given(st.lists(st.integers(-50, 50), min_size=5, max_size=5, unique=True))
def test_a_curve_that_always_falls_has_rank_correlation_minus_one(levels: list[int]) -> None:
    curve = np.asarray(sorted(levels, reverse=True), dtype=float)
    assert spearman(DOSES, curve) == pytest.approx(-1) and spearman(DOSES, curve[::-1]) == pytest.approx(1)


def test_a_constant_curve_follows_no_dose() -> None:
    assert spearman(DOSES, np.ones(5)) == 0 and slope(DOSES, np.full(5, 0.1)) == 0


@pytest.mark.parametrize("doses", [(0.5,), (0.0, 0.0)])
def test_one_dose_makes_no_curve(doses: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at least two doses, each once"):
        slope(doses, np.ones(len(doses)))


def measured(fall: float, seeds: int = 3, items: int = 60) -> list[list[Scores]]:
    """An accuracy of 0.9 minus ``fall`` times the dose; the same items are hard at every dose."""
    rng = np.random.default_rng(2)
    hard = rng.random((seeds, items))
    return [[scores((own < 0.9 - fall * dose).astype(float)) for own in hard] for dose in DOSES]


def test_a_fall_is_found_and_none_is_not() -> None:
    falls, flat = dose_response(DOSES, measured(0.5)), dose_response(DOSES, measured(0.0))
    assert falls.slope.low < -0.45 < falls.slope.high < -0.3
    assert falls.spearman.value == -1 and falls.spearman.high < -0.9
    assert [round(f.value, 1) for f in falls.figures] == pytest.approx([0.9, 0.8, 0.65, 0.5, 0.4], abs=0.11)
    assert flat.slope.value == pytest.approx(0, abs=1e-12) and flat.slope.contains(0) and flat.spearman.contains(0)


def test_as_many_arms_as_doses() -> None:
    with pytest.raises(ValueError, match="5 doses for 4 arms"):
        dose_response(DOSES, measured(0.1)[1:])


# -- Hedges' g of two groups


def test_the_papers_example() -> None:
    found = hedges_g_of_groups([75, 70, 72, 71], [57, 60, 58, 61])
    assert found.value == pytest.approx(5.652174, abs=1e-6)  # d = 13 / 2, J = 1 - 3 / 23
    exact = math.gamma(3) / (math.sqrt(3) * math.gamma(2.5))
    assert found.value / 6.5 == pytest.approx(0.869565, abs=1e-6) and exact == pytest.approx(0.868627, abs=1e-6)
    reach = 2.446912 * (1 - 3 / 23) * math.sqrt(1 / 2 + 6.5**2 / 16)  # t with 6 degrees of freedom
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_cards_formula_on_random_groups_of_unequal_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    control, treated = rng.normal(1.0, 2.0, 4 + seed), rng.normal(0.0, 1.0, 7)
    n, m = len(control), len(treated)
    pooled = ((n - 1) * control.var(ddof=1) + (m - 1) * treated.var(ddof=1)) / (n + m - 2)
    d = (control.mean() - treated.mean()) / math.sqrt(pooled)
    found = hedges_g_of_groups(control.tolist(), treated.tolist()).value
    assert found == pytest.approx(d * (1 - 3 / (4 * (n + m) - 9)), rel=1e-12)


@given(values, values, st.floats(0.1, 10), st.floats(-100, 100))
def test_sign_scale_and_shift(control: list[float], treated: list[float], scale: float, shift: float) -> None:
    found = hedges_g_of_groups(control, treated)
    turned = hedges_g_of_groups(treated, control)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low), abs=1e-9)
    moved = hedges_g_of_groups([scale * x + shift for x in control], [scale * x + shift for x in treated])
    assert moved.value == pytest.approx(found.value, rel=1e-6, abs=1e-6)


def test_of_two_halves_of_one_crowd_the_interval_covers_0() -> None:
    """Oracle 5 of brain rot: of 1,000 halvings about 950 intervals hold 0, give or take four standard deviations."""
    rng = np.random.default_rng(0)
    crowds = rng.normal(0.7, 0.1, (1000, 8))
    held = sum(hedges_g_of_groups(own[:4].tolist(), own[4:].tolist()).contains(0) for own in crowds)
    assert 922 <= held <= 985, held


def test_equal_means_are_no_effect_and_the_interval_covers_0() -> None:
    found = hedges_g_of_groups([1.0, 2.0, 3.0], [0.0, 2.0, 4.0])
    assert found.value == 0 and found.contains(0)


@pytest.mark.parametrize("group", [[0.1] * 3, [0.0] * 4])
def test_no_spread_is_an_error_and_not_infinite(group: list[float]) -> None:
    with pytest.raises(ValueError, match="not defined where the values of both groups do not vary"):
        hedges_g_of_groups(group, [0.7] * 3)


def test_one_model_is_no_group() -> None:
    with pytest.raises(ValueError, match="at least two values in each group, not 1 and 2"):
        hedges_g_of_groups([1.0], [1.0, 2.0])
