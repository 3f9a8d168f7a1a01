"""The resampling behind ``statistics``: aligned items, weighted figures, and draws over items and seeds.

A resample is a row of counts: how often each item was drawn.  Every figure is a function of items and
counts, so one draw serves all the runs that are compared, which is what pairs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palimpsest.audit import Scores, Statistic

__all__ = [
    "Arms",
    "Array",
    "align",
    "blocks",
    "check",
    "draw_counts",
    "draws",
    "effective",
    "figures",
    "numbers",
    "over_seeds",
    "tail",
]

Array = NDArray[np.float64]
Arms = Sequence[Sequence[Scores]]
"""Runs to be compared; each is a sequence over seeds, of length 1 for a run that has no seeds."""

_CELLS = 2**21
"""Most entries of one block of resamples, so that memory stays near 16 MB for any number of items."""


def numbers(values: Tensor) -> Array:
    """A tensor's values as float64 on the CPU."""
    return values.detach().to("cpu", torch.float64).numpy()


def check(x: Array, statistic: Statistic, groups: Array | None, name: str) -> None:
    """Refuses items [N] for which ``statistic`` is not defined."""
    if not len(x):
        raise ValueError(f"{name}: there are no items; measure at least one.")
    if statistic == "auc":
        if groups is None:
            raise ValueError(f"{name}: an AUC compares two groups; give each item's group, 0 or 1.")
        if set(np.unique(groups)) != {0.0, 1.0}:
            found = np.unique(groups).tolist()
            raise ValueError(f"{name}: an AUC needs items of group 0 and of group 1; it has groups {found}.")
    if statistic == "harmonic_mean" and (x < 0).any():
        raise ValueError(f"{name}: a harmonic mean needs items of at least 0; the lowest is {x.min():g}.")


def figures(x: Array, statistic: Statistic, groups: Array | None, counts: Array) -> Array:
    """The figure of each resample, [R] for items [N] or [M, R] for the same items measured M times, [M, N].

    ``counts`` [R, N] says how often each item was drawn.
    """
    if statistic == "mean":
        # A mean lies within its items; the clip removes the rounding of the product, so that constant items stay exact.
        low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
        means: Array = np.clip((counts @ x.T).T / counts.sum(1), low, high)
        return means
    if statistic == "harmonic_mean":
        zero = x == 0
        total = (counts @ np.divide(1.0, x, out=np.zeros_like(x), where=~zero).T).T
        harmonic = np.divide(counts.sum(1), total, out=np.zeros_like(total), where=total > 0)
        return np.where((counts @ zero.T).T > 0, 0.0, harmonic)
    assert groups is not None
    return _aucs(np.atleast_2d(x), groups, counts).reshape(*x.shape[:-1], len(counts))


_EXACT = 2**24
"""Up to here float32 holds every whole number."""


def _aucs(x: Array, groups: Array, counts: Array) -> Array:
    """Weighted Mann-Whitney of items [M, N], [M, R]: group-0 weight below each group-1 item, plus half of what ties.

    Everything is counted in whole numbers: twice the pairs that are won, of twice all pairs.
    """
    zero, one = np.flatnonzero(groups == 0), np.flatnonzero(groups == 1)
    kind = torch.float32 if 2 * len(zero) * len(one) <= _EXACT else torch.float64
    # All resamples of an item side by side: what is taken out and added up is then one piece of memory.
    zeros, ones = (torch.from_numpy(counts.T[own]).to(kind) for own in (zero, one))  # [N0, R], [N1, R]
    below = torch.zeros(len(zero) + 1, len(counts), dtype=kind)
    won = torch.empty(len(x), len(counts), dtype=torch.float64)
    for place, row in enumerate(x):
        order = np.argsort(row[zero], kind="stable")
        torch.cumsum(zeros.index_select(0, torch.from_numpy(order)), 0, out=below[1:])
        left, right = (np.searchsorted(row[zero[order]], row[one], side) for side in ("left", "right"))
        wins = below.index_select(0, torch.from_numpy(left)).add_(below.index_select(0, torch.from_numpy(right)))
        won[place] = wins.mul_(ones).sum(0)  # [N1, R] -> [R]
    areas: Array = (won / (2 * zeros.double().sum(0) * ones.double().sum(0))).numpy()
    return areas


def effective(scores: Scores) -> int:
    """Items that carry the figure: all of them, or those of the smaller group of an AUC."""
    if scores.statistic == "auc" and scores.groups is not None:
        return int(min((scores.groups == 0).sum(), (scores.groups == 1).sum()))
    return len(scores.ids)


@cache
def tail(count: int) -> float:
    """Lower percentile of the expanded 95 % interval of ``count`` items, Phi(-sqrt(n / (n - 1)) t_{0.975, n - 1})."""
    if count < 2:
        return 0.025
    return NormalDist().cdf(-math.sqrt(count / (count - 1)) * student_quantile(count - 1))


def student_quantile(degrees: int) -> float:
    """t with P(|T| < t) = 0.95 for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3 to 26.7.5)."""
    if degrees > 300:
        z, n = NormalDist().inv_cdf(0.975), degrees
        first = (z**3 + z) / (4 * n)
        return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    low, high = 0.0, 13.0  # the widest, one degree of freedom, is 12.7
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, degrees) < 0.95 else (low, middle)
    return low


def _student_within(t: float, degrees: int) -> float:
    """P(|T| < t), the finite series for a whole number of degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(odd, degrees - 1, 2):
        total += term
        term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def blocks(resamples: int, items: int) -> Iterator[int]:
    """Sizes of the blocks in which ``resamples`` draws of ``items`` are made."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}.")
    size = max(1, _CELLS // max(1, items))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def align(arms: Arms) -> list[list[tuple[Array, Array | None]]]:
    """Items and groups of every run and seed in the order of the first run's ids, seed by seed."""
    first = arms[0]
    if any(not arm for arm in arms):
        raise ValueError("There is no seed to compare; measure every run at least once.")
    aligned: list[list[tuple[Array, Array | None]]] = []
    for arm in arms:
        rows = []
        for index, scores in enumerate(arm):
            model = first[index] if len(first) == len(arm) else first[0]
            rows.append(_reorder(scores, model))
        aligned.append(rows)
    return aligned


def _reorder(scores: Scores, model: Scores) -> tuple[Array, Array | None]:
    """Items and groups of ``scores`` in the order of ``model``'s ids; refuses other items, groups or statistics."""
    where = {name: i for i, name in enumerate(scores.ids)}
    if where.keys() != set(model.ids):
        gap = min(where.keys() ^ set(model.ids))
        raise ValueError(
            f"{scores.name}: runs are paired by id, but {gap!r} is missing from one of them; "
            "audit both on the same rows."
        )
    if scores.statistic != model.statistic:
        raise ValueError(
            f"{scores.name}: one run gives a {scores.statistic}, the other a {model.statistic}; use the same audit."
        )
    order = np.asarray([where[name] for name in model.ids])
    groups = None if scores.groups is None else numbers(scores.groups)[order]
    theirs = None if model.groups is None else numbers(model.groups)
    if scores.statistic == "auc" and not np.array_equal(np.asarray(groups), np.asarray(theirs)):
        raise ValueError(f"{scores.name}: an item's group differs between two runs; audit both on the same rows.")
    items = numbers(scores.items)[order]
    check(items, scores.statistic, groups, scores.name)
    return items, groups


def draw_counts(rng: np.random.Generator, rows: int, groups: Array | None, items: int) -> Array:
    """Counts [rows, items] of a resample with replacement, within each group when there are groups."""
    counts = np.zeros((rows, items))
    parts = [np.arange(items)] if groups is None else [np.flatnonzero(groups == g) for g in (0, 1)]
    for part in parts:
        picks = rng.integers(0, len(part), size=(rows, len(part)))
        picks += np.arange(rows)[:, None] * len(part)
        counts[:, part] = np.bincount(picks.ravel(), minlength=rows * len(part)).reshape(rows, len(part))
    return counts


def draws(arms: Arms, combine: Callable[..., Array], resamples: int, seed: int) -> tuple[float, Array]:
    """The combined figure and its bootstrap distribution [resamples]."""
    aligned = align(arms)
    statistic = arms[0][0].statistic
    whole = [[figures(x, statistic, g, np.ones((1, len(x)))) for x, g in arm] for arm in aligned]
    value = float(combine(*[np.mean(arm, axis=0) for arm in whole])[0])
    rng = np.random.default_rng(seed)
    # Seeds that measured the same items share one draw; each seed with items of its own gets its own.
    shared = len({frozenset(s.ids) for s in arms[0]}) == 1
    found = []
    for rows in blocks(resamples, max(len(x) for x, _ in aligned[0])):
        sets = aligned[0][:1] if shared else aligned[0]
        drawn = [draw_counts(rng, rows, g if statistic == "auc" else None, len(x)) for x, g in sets]
        seeds: dict[int, Array] = {}  # runs with the same number of seeds are paired by seed
        compared = []
        for arm in aligned:
            per_seed = np.stack([figures(x, statistic, g, drawn[0 if shared else i]) for i, (x, g) in enumerate(arm)])
            if len(arm) not in seeds:
                seeds[len(arm)] = draw_counts(rng, rows, None, len(arm))
            compared.append(over_seeds(per_seed, seeds[len(arm)]))
        found.append(combine(*compared))
    return value, np.concatenate(found)


def over_seeds(figures: Array, counts: Array) -> Array:
    """Figures [S, R] -> [R]: seeds weighted by their counts [R, S], the spread widened by sqrt(S / (S - 1))."""
    seeds = len(figures)
    if seeds == 1:
        only: Array = figures[0]
        return only
    mean: Array = figures.mean(0)
    off: Array = np.einsum("rs,sr->r", counts, figures - mean) / seeds
    widened: Array = mean + off * math.sqrt(seeds / (seeds - 1))
    return widened
