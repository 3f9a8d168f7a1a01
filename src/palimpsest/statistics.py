"""How sure the figures are: bootstrap intervals, paired tests and effect sizes over items and seeds.

Every figure comes from one value per item, so two runs are compared on the same items.  An interval is a
95 % percentile bootstrap: items are drawn with replacement, the same draw for every run that is compared,
within each group for an AUC.  Seeds are a second level: the runs of several seeds measure the same items,
so one draw of items serves all seeds and the seeds are drawn on top (the pigeonhole bootstrap).

Two small-sample corrections, both exact for the variance of a mean: the percentiles are moved outward to
the reach of Student's t (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", expanded
percentile interval), and the spread between S seeds is widened by sqrt(S / (S - 1)), because a resample
of S values has on average only (S - 1) / S of their variance.

Where all items lie at one end of what they can be, no resample differs and the bootstrap says that nothing is in
doubt, of two items as of two thousand.  There the interval is the exact one of bounded items (``at_an_end``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from torch import Tensor

from palimpsest.audit import Bounds, Scores, Statistic
from palimpsest.resample import (
    Arms,
    Array,
    align,
    blocks,
    check,
    draws,
    effective,
    figures,
    numbers,
    student_quantile,
    tail,
)

__all__ = [
    "Interval",
    "KolmogorovSmirnov",
    "McNemar",
    "aggregate",
    "at_an_end",
    "bootstrap",
    "bootstrap_over_seeds",
    "bootstrap_p",
    "changes",
    "combined_bootstrap",
    "distance_change",
    "expanded_interval",
    "hedges_g",
    "hedges_g_of_groups",
    "holm",
    "is_binary",
    "lone",
    "ks_two_sample",
    "mcnemar",
    "paired_bootstrap",
    "paired_bootstrap_over_seeds",
    "paired_permutation",
    "relative_difference",
]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; ``low`` and ``high`` are nan where one item and one seed leave it undefined."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies within the interval; false where the interval is undefined."""
        return self.low <= value <= self.high

    def within(self, bounds: Bounds) -> Interval:
        """Without what lies beyond the ``bounds`` of the figure; an end that is undefined stays so.

        Seeds are drawn with a widened spread, and mirrored intervals and Student's are symmetric, so that all of them
        may reach farther than the figure can.  The truth does not lie there: nothing is lost that might have held it.
        """
        low, high = min(bounds[0], self.value), max(bounds[1], self.value)  # rounding may have carried the value beyond
        return Interval(self.value, max(self.low, low), min(self.high, high))  # in this order nan stays nan


@dataclass(frozen=True)
class McNemar:
    """Items that only ``before`` and only ``after`` got right, and the exact two-sided p."""

    only_before: int
    only_after: int
    p: float


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """Largest distance between two empirical distribution functions in [0, 1], and its exact two-sided p."""

    statistic: float
    p: float


def aggregate(items: Tensor, statistic: Statistic = "mean", groups: Tensor | None = None) -> float:
    """One figure from items [N]: their mean, AUC or harmonic mean.

    ``auc`` is the probability that an item of group 1 exceeds one of group 0, ties counting 1/2, and needs
    ``groups`` [N] of 0 and 1.  The harmonic mean is 0 when any item is 0 and refuses negative items.
    """
    x, g = numbers(items), None if groups is None else numbers(groups)
    check(x, statistic, g, "the items")
    return float(figures(x, statistic, g, np.ones((1, len(x))))[0])


def bootstrap(scores: Scores, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """The figure of one run with its interval."""
    return bootstrap_over_seeds([scores], resamples=resamples, seed=seed)


def bootstrap_over_seeds(scores: Sequence[Scores], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """The figure of one run, averaged over its seeds, with an interval over items and seeds."""
    found = combined_bootstrap([scores], lambda run: run, resamples=resamples, seed=seed)
    return _bounded(found, scores[0], scores[0].range)


def paired_bootstrap(before: Scores, after: Scores, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """The change ``after`` minus ``before`` with its interval, paired by id.

    Raises ``ValueError`` when the two did not measure the same items, naming one that is missing.
    """
    return paired_bootstrap_over_seeds([before], [after], resamples=resamples, seed=seed)


def paired_bootstrap_over_seeds(
    before: Sequence[Scores], after: Sequence[Scores], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """As ``paired_bootstrap``, over seeds too; a run measured once serves all seeds of the other.

    Where both have the same number of seeds, seed i of one is paired with seed i of the other.  A change of exactly 0
    of all items has the interval [0, 0]: it is what a model that nothing was done to gives on any items, and an
    interval for it would deny that it stayed the same.
    """
    found = combined_bootstrap([before, after], lambda b, a: a - b, resamples=resamples, seed=seed)
    return _bounded(found, before[0], changes(before[0].range))


def relative_difference(
    run: Sequence[Scores], reference: Sequence[Scores], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """100 (a - r) / r in percent, resampling both; PrivLeak where the figures are AUCs (MUSE, section 3.2).

    0 where both are equal, nan where only the reference is 0; an end of the interval that no resample bounds is nan.
    """
    return combined_bootstrap([run, reference], _relative, resamples=resamples, seed=seed)


def distance_change(
    before: Sequence[Scores],
    after: Sequence[Scores],
    reference: Sequence[Scores],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """|after - reference| - |before - reference|: below 0 when the run came nearer to the reference."""
    arms = [before, after, reference]
    found = combined_bootstrap(arms, lambda b, a, r: np.abs(a - r) - np.abs(b - r), resamples=resamples, seed=seed)
    return _bounded(found, before[0], changes(before[0].range))


def changes(bounds: Bounds) -> Bounds:
    """The bounds of a difference of two figures that lie within ``bounds``."""
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


def at_an_end(found: Interval, bounds: Bounds, items: int) -> Interval:
    """The exact interval in place of a collapsed one at an end of finite ``bounds``; any other one as it is.

    With all of n items at that end, the probability q that an item lies elsewhere is at most 1 - 0.05 ** (1 / n) with
    95 % confidence, since more would show in n items more often than once in 20 (the one-sided exact interval of
    Clopper and Pearson 1934).  Such an item lies at the other end at worst, which moves a mean by q (high - low); an
    AUC, by taking its items in n pairs.  0 of 24 is [0, 0.117] of a share, 0 of 2 is [0, 0.776].
    """
    low, high = bounds
    value = found.value
    if not found.low == found.high == value or not math.isfinite(high - low) or low < value < high:
        return found
    reach = (1 - 0.05 ** (1 / items)) * (high - low)
    return Interval(value, value, low + reach) if value <= low else Interval(value, high - reach, value)


def _bounded(found: Interval, scores: Scores, bounds: Bounds) -> Interval:
    """An interval of what ``scores`` measured, within the ``bounds`` of its figure.

    A harmonic mean of items at one end can be anything once one of them is not, so that it has no such interval.
    """
    if scores.statistic != "harmonic_mean":
        found = at_an_end(found, bounds, effective(scores))
    return found.within(bounds)


def combined_bootstrap(arms: Arms, combine: Callable[..., Array], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """The interval of any figure that ``combine`` makes from one array of figures per run, elementwise."""
    value, found = draws(arms, combine, resamples, seed)
    return expanded_interval(value, found, effective(arms[0][0]), max(len(arm) for arm in arms))


def expanded_interval(value: float, found: Array, items: int, seeds: int) -> Interval:
    """The expanded percentile interval of ``value`` from its draws ``found`` [R] over so many items and seeds."""
    if not math.isfinite(value):
        return Interval(math.nan, math.nan, math.nan)
    if _lone(items, seeds):
        return Interval(value, math.nan, math.nan)
    lowest = tail(items)
    with np.errstate(
        invalid="ignore"
    ):  # an infinite resample lies beyond every finite one, and makes its end undefined
        low, high = np.quantile(found, [lowest, 1 - lowest])
    return Interval(value, *(float(end) if math.isfinite(end) else math.nan for end in (low, high)))


def _lone(items: int, seeds: int) -> bool:
    """Whether there is nothing to draw from: one item (or one in a group of an AUC), measured once."""
    return items < 2 and seeds == 1


def bootstrap_p(before: Sequence[Scores], after: Sequence[Scores], *, resamples: int = 2000, seed: int = 0) -> float:
    """Two-sided p that the change is 0: twice the smaller tail of the paired bootstrap; nan where no interval is.

    Where fewer than ten draws lie beyond 0 the tail is that of a normal of the draws' spread, since counting
    cannot tell a p of 1e-3 from one of 1e-9; it never exceeds the counted one.  A normal tail falls without end as
    the spread does, so that it stops at 2 * 2 ** -n, the least p of any test that flips the signs of n items (of n
    seeds, where there is one item), which is that of a change that is the same in all of them.
    """
    if lone([before, after]):
        return math.nan
    value, found = draws([before, after], lambda b, a: a - b, resamples, seed)
    beyond = min(int((found <= 0).sum()), int((found >= 0).sum()))
    counted = min(1.0, 2 * (1 + beyond) / (resamples + 1))  # the 1 counts the data as one of the draws
    if beyond >= 10:
        return counted
    spread = float(found.std())
    beyond_normal = 2 * NormalDist().cdf(-abs(value) / spread) if spread > 0 else 0.0
    items = len(before[0].ids)
    return max(min(counted, beyond_normal), _least_p(items if items > 1 else max(len(before), len(after))))


def lone(arms: Arms) -> bool:
    """Whether the runs have nothing to draw from, so that interval and p are undefined."""
    return _lone(effective(arms[0][0]), max(len(arm) for arm in arms))


def _least_p(count: int) -> float:
    """The least two-sided p of a test that flips the signs of ``count`` changes; above 0, as any p is."""
    return max(math.ldexp(1.0, 1 - count), sys.float_info.min)


def paired_permutation(before: Scores, after: Scores, *, resamples: int = 2000, seed: int = 0) -> float:
    """Two-sided p that the mean change is 0: the signs of the items' changes are flipped at random."""
    b, a = align([[before], [after]])
    x = a[0][0] - b[0][0]  # [N]
    observed = abs(x.sum())
    rng, beyond = np.random.default_rng(seed), 1
    for rows in blocks(resamples, len(x)):
        signs = rng.integers(0, 2, size=(rows, len(x)), dtype=np.int8).astype(np.float64) * 2 - 1
        # A relative tolerance, since a permutation equal to the data may differ in the last bit.
        beyond += int((np.abs(signs @ x) >= observed * (1 - 1e-12)).sum())
    return beyond / (resamples + 1)


def is_binary(scores: Scores) -> bool:
    """Whether every item is 0 or 1 and the figure is their mean, as an accuracy."""
    return scores.statistic == "mean" and bool(((scores.items == 0) | (scores.items == 1)).all())


def mcnemar(before: Scores, after: Scores) -> McNemar:
    """Exact McNemar test on binary items: a two-sided binomial test of the items that changed, paired by id."""
    for scores in (before, after):
        if not is_binary(scores):
            raise ValueError(f"{scores.name}: McNemar's test needs items of 0 and 1; use paired_permutation instead.")
    b, a = align([[before], [after]])
    x, y = b[0][0], a[0][0]
    lost, won = int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum())
    ways, term = 0, 1  # whole numbers of coin flips, of which none underflows; their share may, but no p is 0
    for k in range(min(lost, won) + 1):
        ways += term
        term = term * (lost + won - k) // (k + 1)
    return McNemar(lost, won, min(1.0, max(2 * ways / 2 ** (lost + won), sys.float_info.min)))


def hedges_g(before: Scores, after: Scores) -> float:
    """Paired effect size g_av = J (mean(after) - mean(before)) / sqrt((s_before^2 + s_after^2) / 2).

    J = 1 - 3 / (8 N - 9) removes the small-sample bias (Lakens 2013, equations 4 and 10); s are standard
    deviations with N - 1.  Undefined (nan) for fewer than two items or where no item varies.
    """
    b, a = align([[before], [after]])
    x, y = b[0][0], a[0][0]
    if len(x) < 2:
        return math.nan
    spread = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    return float((y.mean() - x.mean()) / spread * (1 - 3 / (8 * len(x) - 9))) if spread > 0 else math.nan


def hedges_g_of_groups(control: Sequence[float], treated: Sequence[float]) -> Interval:
    """Effect size of two independent groups, above 0 where the treated group is lower, with its 95 % interval.

        d = (mean(control) - mean(treated)) / s,   s^2 = ((n - 1) s_control^2 + (m - 1) s_treated^2) / (n + m - 2)
        g = J d,   J = 1 - 3 / (4 (n + m) - 9),   var g = J^2 (1 / n + 1 / m + d^2 / (2 (n + m)))

    The interval reaches to Student's t with n + m - 2 degrees of freedom, since groups of models are small.  Raises
    ``ValueError`` for fewer than two values in a group, and where no value varies.
    """
    x, y = (np.asarray(group, dtype=np.float64) for group in (control, treated))
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise ValueError(f"An effect size needs at least two values in each group, not {n} and {m}; add runs.")
    degrees = n + m - 2
    spread = math.sqrt(((n - 1) * x.var(ddof=1) + (m - 1) * y.var(ddof=1)) / degrees)
    if spread <= 1e-12 * max(abs(x).max(), abs(y).max()):  # equal values differ in the last bit of their mean
        raise ValueError("An effect size is not defined where the values of both groups do not vary; add runs.")
    d, correction = (x.mean() - y.mean()) / spread, 1 - 3 / (4 * (n + m) - 9)
    reach = student_quantile(degrees) * correction * math.sqrt(1 / n + 1 / m + d**2 / (2 * (n + m)))
    return Interval(float(correction * d), float(correction * d - reach), float(correction * d + reach))


def ks_two_sample(a: Tensor, b: Tensor) -> KolmogorovSmirnov:
    """Two-sample Kolmogorov-Smirnov test of items [N] and [M], two-sided; its p is TOFU's forget quality."""
    from scipy.stats import ks_2samp

    if not len(a) or not len(b):
        raise ValueError("A two-sample test needs at least one item on each side.")
    result = ks_2samp(numbers(a), numbers(b))
    return KolmogorovSmirnov(float(result.statistic), max(float(result.pvalue), sys.float_info.min))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several tests, in the given order; nan stays nan and is not counted as a test."""
    tested = sorted((p, i) for i, p in enumerate(pvalues) if not math.isnan(p))
    adjusted, floor = list(pvalues), 0.0
    for rank, (p, index) in enumerate(tested):
        floor = max(floor, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = floor
    return adjusted


def _relative(run: Array, reference: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        percent = 100 * (run - reference) / reference
    return np.where(run == reference, 0.0, percent)
