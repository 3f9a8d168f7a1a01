"""Intervals end where their figure cannot be, and stay as they are where no bounds are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from palimpsest.audit import NONNEGATIVE, SHARE, UNBOUNDED, Bounds, Scores
from palimpsest.between_stages import Between
from palimpsest.run_folder import add_scores, read_scores
from palimpsest.stage_matrix import stage_matrices
from palimpsest.statistics import (
    Interval,
    bootstrap_over_seeds,
    distance_change,
    paired_bootstrap_over_seeds,
    relative_difference,
)
from palimpsest.watch import Watched

INF = math.inf


def scores(share: float, bounds: Bounds = UNBOUNDED, items: int = 20, role: str = "task") -> Scores:
    """Such a share of the items is right."""
    right = torch.tensor([float(i < round(share * items)) for i in range(items)], dtype=torch.float64)
    return Scores("accuracy", right, tuple(f"i{i}" for i in range(items)), role=role, bounds=bounds)


@pytest.mark.parametrize(
    ("interval", "bounds", "found"),
    [
        ((0.9, 0.7, 1.2), SHARE, (0.9, 0.7, 1.0)),
        ((0.1, -0.2, 0.4), SHARE, (0.1, 0.0, 0.4)),
        ((0.5, 0.4, 0.6), SHARE, (0.5, 0.4, 0.6)),
        ((0.1, -0.2, 7.0), NONNEGATIVE, (0.1, 0.0, 7.0)),
        ((0.1, -0.2, 7.0), UNBOUNDED, (0.1, -0.2, 7.0)),
        ((1.5, 0.9, 1.8), SHARE, (1.5, 0.9, 1.5)),
    ],
)
def test_an_interval_within_bounds(interval: tuple[float, ...], bounds: Bounds, found: tuple[float, ...]) -> None:
    """The value itself is never cut off, by however much rounding carried it beyond."""
    assert Interval(*interval).within(bounds) == Interval(*found)


def test_an_undefined_end_stays_undefined() -> None:
    found = Interval(0.5, math.nan, math.nan).within(SHARE)
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("shares", [(1.0, 0.6), (0.0, 0.4)])
def test_the_figure_of_several_seeds(shares: tuple[float, ...]) -> None:
    free = bootstrap_over_seeds([scores(share) for share in shares])
    bound = bootstrap_over_seeds([scores(share, SHARE) for share in shares])
    assert free.low < 0 or free.high > 1, "else this shows nothing"
    assert bound == Interval(free.value, max(0.0, free.low), min(1.0, free.high))


def test_the_change_of_a_share_is_at_most_one() -> None:
    before, after = (0.0, 0.1), (1.0, 0.6)
    free = paired_bootstrap_over_seeds([scores(s) for s in before], [scores(s) for s in after])
    bound = paired_bootstrap_over_seeds([scores(s, SHARE) for s in before], [scores(s, SHARE) for s in after])
    assert free.high > 1 and bound == Interval(free.value, free.low, 1.0)
    runs = [[scores(s, bounds) for s in arm] for bounds in (UNBOUNDED, SHARE) for arm in (before, after, after)]
    free, bound = distance_change(*runs[:3]), distance_change(*runs[3:])
    assert free.low < -1 and bound == Interval(free.value, -1.0, free.high)


def test_an_auc_is_a_share_and_a_quotient_of_two_has_no_end() -> None:
    groups = torch.tensor([0.0, 1.0] * 10)
    ids = tuple(map(str, range(20)))
    found = []
    for gap in (5.0, 0.3):
        values = torch.as_tensor(np.random.default_rng(0).normal(size=20)) + gap * groups
        found.append(Scores("attack", values, ids, statistic="auc", groups=groups))
    assert found[0].range == SHARE and found[0].bounds == UNBOUNDED
    assert bootstrap_over_seeds(found).high == 1.0
    assert relative_difference(found[:1], found[1:]).high > 1.0


def test_bounds_are_kept_beside_the_items_and_may_be_missing_there(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    for bounds in (SHARE, NONNEGATIVE, UNBOUNDED):
        add_scores(file, scores(0.5, bounds))
    assert [own.bounds for own in read_scores(file)] == [SHARE, NONNEGATIVE, UNBOUNDED]
    line = json.loads(file.read_text().splitlines()[0])
    del line["bounds"]
    file.write_text(json.dumps(line) + "\n")
    assert [own.bounds for own in read_scores(file)] == [UNBOUNDED]


def seed_of(depth: float, first: float) -> list[Watched | None]:
    """The first task falls by ``depth`` as the second is learned, and nothing kept its items."""
    old = [(0, first), (8, first - depth), (16, first)]
    return [
        Watched(8, {"old/recall": [(0, 0.0), (8, first)], "new/recall": [(0, 0.0), (8, 0.0)]}),
        Watched(8, {"old/recall": old, "new/recall": [(0, 0.0), (8, 1.0), (16, 1.0)]}),
    ]


def test_what_happened_between_stages() -> None:
    """By Student's t over two seeds, which reaches farther than the figures can."""
    taught, seeds = {"old/recall": 1, "new/recall": 2}, [seed_of(0.9, 0.95), seed_of(0.1, 0.9)]
    free = {f.name.split(" ")[0]: f for f in Between.of(taught, "higher", seeds).figures(50, 0)}
    bound = {f.name.split(" ")[0]: f for f in Between.of(taught, "higher", seeds, SHARE).figures(50, 0)}
    for name in ("worst_of_earlier", "worst_case_performance", "gap_depth", "windowed_forgetting_10"):
        assert free[name].high > 1 and (bound[name].low, bound[name].high) == (0.0, 1.0), name
        assert bound[name].value == free[name].value, name
    assert bound["gap_area"].low == 0.0 and bound["gap_area"].high == free["gap_area"].high > 1
    one, two = (Between.of(taught, "higher", own, SHARE) for own in (seeds, [seed_of(0.0, 0.9), seed_of(0.9, 0.9)]))
    ends = {f.name.split(" ")[0]: (f.low, f.high) for f in one.differences(two, 50, 0)}
    assert ends["worst_of_earlier"] == ends["gap_depth"] == (-1.0, 1.0)
    assert min(ends["gap_area"]) < -1


def test_the_figures_of_a_stage_matrix(tmp_path: Path) -> None:
    staged = {}
    for bounds in (UNBOUNDED, SHARE):
        by_seed = {}
        for seed, share in enumerate((1.0, 0.6)):
            by_seed[seed] = []
            for place, stage in enumerate(("before", "next")):
                file = tmp_path / f"{bounds[1]}-{seed}-{place}.jsonl"
                for role in ("old", "new"):
                    known = role == "old" or place == 1
                    add_scores(file, scores(share if known else 0.0, bounds, role=role))
                by_seed[seed].append((stage, file))
        staged[bounds] = {"after": by_seed}
    free, bound = (
        {f.name: f for f in stage_matrices(own, {"before": "old", "next": "new"}, resamples=200)[0].figures}
        for own in staged.values()
    )
    for name in ("overall_performance", "performance_when_taught", "backward_transfer"):
        assert bound[name].value == free[name].value, name
    assert free["overall_performance"].high > 1 == bound["overall_performance"].high
    assert bound["overall_performance"].low == free["overall_performance"].low
