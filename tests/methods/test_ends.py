"""Intervals where all items lie at one end of what they can be, which no resample doubts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from palimpsest.audit import NONNEGATIVE, SHARE, UNBOUNDED, Bounds, Scores, Statistic
from palimpsest.statistics import (
    Interval,
    at_an_end,
    bootstrap,
    bootstrap_over_seeds,
    distance_change,
    paired_bootstrap,
)
from palimpsest.verdict import judge, parse_expectation


def scores(value: float, items: int, bounds: Bounds = SHARE, statistic: Statistic = "mean") -> Scores:
    """All items have one value."""
    values = torch.full((items,), value, dtype=torch.float64)
    return Scores("exact_match", values, tuple(f"i{i}" for i in range(items)), bounds=bounds, statistic=statistic)


@pytest.mark.parametrize("items", [2, 3, 24, 400])
def test_all_at_one_end_are_bounded_as_by_the_binomial_distribution(items: int) -> None:
    from scipy.stats import binomtest

    exact = binomtest(0, items, alternative="less").proportion_ci(0.95, "exact").high
    found = bootstrap(scores(0.0, items))
    assert (found.value, found.low) == (0.0, 0.0) and found.high == pytest.approx(exact, rel=1e-9)
    found = bootstrap(scores(1.0, items))
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(1 - exact, rel=1e-9)


def test_the_examples_in_the_docstring_and_the_glossary() -> None:
    assert [round(bootstrap(scores(0.0, items)).high, 3) for items in (24, 2)] == [0.117, 0.776]


def test_the_bound_holds_for_any_items() -> None:
    """Items that are 0 or 1 in unequal shares: the truth lies above the bound in no more than one study in 20."""
    rng, items = np.random.default_rng(0), 12
    truth = 1 - 0.05 ** (1 / items) + 1e-3
    missed = sum(not (rng.random(items) < truth).any() for _ in range(4000))
    assert missed / 4000 < 0.06 and bootstrap(scores(0.0, items)).high < truth


def test_seeds_of_the_same_items_are_no_further_items() -> None:
    assert bootstrap_over_seeds([scores(0.0, 8)] * 3) == bootstrap(scores(0.0, 8))


def test_a_change_from_end_to_end_reaches_twice_as_far() -> None:
    found = paired_bootstrap(scores(1.0, 24), scores(0.0, 24))
    assert (found.value, found.low) == (-1.0, -1.0)
    assert found.high == pytest.approx(-1 + 2 * (1 - 0.05 ** (1 / 24)))


def test_no_change_of_any_item_stays_none() -> None:
    assert paired_bootstrap(scores(0.0, 2), scores(0.0, 2)) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("value", "bounds"), [(0.5, SHARE), (0.0, UNBOUNDED), (0.0, NONNEGATIVE), (7.0, NONNEGATIVE)])
def test_elsewhere_constant_items_stay_as_they_are(value: float, bounds: Bounds) -> None:
    assert bootstrap(scores(value, 5, bounds)) == Interval(value, value, value)


def test_a_harmonic_mean_and_a_single_item_have_none() -> None:
    assert bootstrap(scores(1.0, 9, statistic="harmonic_mean")) == Interval(1.0, 1.0, 1.0)
    single = bootstrap(scores(0.0, 1))
    assert math.isnan(single.low) and math.isnan(single.high)


def test_rounding_may_carry_a_value_beyond_its_end() -> None:
    found = at_an_end(Interval(1 + 1e-7, 1 + 1e-7, 1 + 1e-7), SHARE, 24).within(SHARE)
    assert found.high == found.value and found.low == pytest.approx(0.05 ** (1 / 24))


@pytest.mark.parametrize(("items", "finding"), [(2, "not shown"), (24, "not shown"), (40, "forgotten")])
def test_a_bound_takes_as_many_items_as_it_takes(items: int, finding: str) -> None:
    """0 of 2 was once said to be at most 0.1, with an interval from 0.00 to 0.00."""
    arms = [[scores(1.0, items)], [scores(0.0, items)]]
    found = judge("after", "forget", "exact_match", parse_expectation({"at most": 0.1}), *arms)
    assert found.verdict == finding
    assert ("does not settle" in found.sentence) is (finding == "not shown")


def test_a_run_that_reached_the_reference_in_every_item_is_not_taken_for_certain():
    zeros, ones = scores(0.0, 24), scores(1.0, 24)
    found = distance_change([ones], [zeros], [zeros])
    assert (found.value, found.low) == (-1.0, -1.0)
    assert found.high == pytest.approx(-1 + 2 * (1 - 0.05 ** (1 / 24)))
    same = distance_change([zeros], [zeros], [zeros])
    assert (same.low, same.high) == (0.0, 0.0)
