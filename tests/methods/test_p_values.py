"""A p is undefined where the interval is, never 0, and no larger for a change that is plainer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.report import Run
from palimpsest.statistics import bootstrap_p, ks_two_sample, mcnemar

RUNS = [Run("before", "before"), Run("after", "after"), Run("retrained", "baseline")]


def scores(values: np.ndarray | list[float], groups: list[int] | None = None) -> Scores:
    items = torch.as_tensor(np.asarray(values, dtype=np.float64))
    ids = tuple(f"i{i}" for i in range(len(items)))
    if groups is None:
        return Scores("probability", items, ids, role="forget")
    kinds = torch.tensor(groups, dtype=torch.float64)
    return Scores("leak", items, ids, role="forget", statistic="auc", versus="relative", groups=kinds)


def p_of(changes: np.ndarray, seeds: int = 3) -> float:
    return bootstrap_p([scores(np.ones(len(changes)))] * seeds, [scores(1 + changes)] * seeds)


def test_the_same_change_of_all_items_is_the_plainest_one() -> None:
    """It once had a p of 0.001, which only counts resamples, and one of changes that vary had 4e-15."""
    spread = np.random.default_rng(0).normal(0, 0.3, 24)
    ps = [p_of(np.full(24, -1.0) + share * spread) for share in (0.0, 1e-9, 1.0, 3.0, 6.0)]
    assert ps == sorted(ps) and ps[0] == ps[1] == pytest.approx(2 * 2**-24) and ps[-1] > ps[0]


@pytest.mark.parametrize("items", [2, 5, 10, 40])
def test_a_change_of_all_items_has_the_p_of_the_sign_test(items: int) -> None:
    from scipy.stats import binomtest

    assert p_of(np.full(items, -1.0)) == pytest.approx(binomtest(0, items).pvalue)


def test_seeds_are_what_is_drawn_of_a_single_item() -> None:
    assert p_of(np.array([-1.0]), seeds=4) == pytest.approx(2 * 2**-4)
    assert math.isnan(p_of(np.array([-1.0]), seeds=1))


def test_no_p_is_zero() -> None:
    many = 3000
    assert 0 < p_of(np.full(many, -1.0)) < 1e-300 and 0 < p_of(np.full(many, -1.0), seeds=1) < 1e-300
    assert 0 < p_of(-1 + np.random.default_rng(0).normal(0, 1e-3, many)) < 1e-300
    assert 0 < mcnemar(scores(np.ones(many)), scores(np.zeros(many))).p < 1e-300
    assert 0 < ks_two_sample(torch.zeros(many), torch.ones(many)).p < 1e-300
    assert p_of(np.zeros(many)) == 1.0


def test_no_change_stays_without_a_p_that_shows_one() -> None:
    assert p_of(np.random.default_rng(1).normal(0, 1, 40), seeds=1) > 0.05


@pytest.mark.parametrize("kind", ["auc", "mean", "binary"])
def test_a_single_item_has_neither_interval_nor_p(kind: str) -> None:
    """Of an AUC, a single item in one of its groups."""
    if kind == "auc":
        before, after = ([2.0, 0.0, 0.5, 1.0], [-1.0, 0.0, 0.5, 1.0])
        arms = [scores(values, [1, 0, 0, 0]) for values in (before, after, before)]
    else:
        arms = [scores([value]) for value in ((1.0, 0.0, 1.0) if kind == "binary" else (0.9, 0.2, 0.8))]
    measured = {run.name: {0: [own]} for run, own in zip(RUNS, arms, strict=True)}
    report = build_report("one", measured, RUNS)
    assert len(report.changes) == 2 and len(report.versus) == 1
    for found in (*report.changes, *report.versus):
        assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p), found
    assert all(math.isnan(c.p_holm) and c.test == "none" for c in report.changes)


def test_a_relative_difference_to_nothing_has_no_p() -> None:
    groups = [1, 1, 1, 0, 0, 0]
    low, high = scores([0, 0, 0, 1, 1, 1], groups), scores([1, 1, 1, 0, 0, 0], groups)
    measured = {"before": {0: [high]}, "after": {0: [high]}, "retrained": {0: [low]}}
    (found,) = build_report("none", measured, RUNS).versus
    assert math.isnan(found.value) and math.isnan(found.p)
