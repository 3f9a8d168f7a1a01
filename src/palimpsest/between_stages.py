"""What happened between the stages of a run, drawn from what they watched, with intervals over items and seeds.

Every seed's curves are laid end to end, and each figure of ``curves`` is the mean over the seeds.  Where the single
items were kept, a resample draws the items of a task once for all its measurements, and the seeds on top, as elsewhere.

The worst of many noisy measurements is worse than the worst of what they measure, and that of a resample is worse once
more, by about as much.  So these intervals are mirrored about the figure (the basic bootstrap), which takes most of it
off again, and widened to the figure where it would stand outside.  Where items are missing the intervals are
Student's, over the seeds alone.  Both end where the figure cannot be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from palimpsest.audit import UNBOUNDED, Bounds
from palimpsest.curves import (
    CurveFigure,
    StepCurves,
    gap_area,
    gap_depth,
    share_recovered,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_performance,
    worst_of_earlier,
)
from palimpsest.report import StageFigure
from palimpsest.resample import Array, blocks, draw_counts, over_seeds, student_quantile
from palimpsest.statistics import Interval, changes, expanded_interval
from palimpsest.watch import Watched
from palimpsest.watched_items import Items, kept

__all__ = ["FIGURES", "Between"]

FIGURES: Mapping[str, CurveFigure] = {
    "worst_of_earlier": worst_of_earlier,
    "worst_case_performance": worst_case_performance,
    "gap_depth": gap_depth,
    "gap_area": gap_area,
    "share_recovered": share_recovered,
    "windowed_forgetting_10": partial(windowed_forgetting, window=10),
    "windowed_forgetting_100": partial(windowed_forgetting, window=100),
    "windowed_plasticity_10": partial(windowed_plasticity, window=10),
    "windowed_plasticity_100": partial(windowed_plasticity, window=100),
}

_OF_EARLIER = ("worst_of_earlier", "gap_depth", "gap_area", "share_recovered")
"""Figures that need no measurement of the task that is being learned."""

_Values = Mapping[str, Sequence[float | None]]
"""Figure -> its value with each seed, None where it is undefined."""


@dataclass(frozen=True)
class _Seed:
    """One seed: its curves, and each task's items by stage, where they were kept of all.

    ``items`` [task][stage] are the rows of ``curves`` that hold the measurements, and the items of these.  Windows open
    while a task is learned, so without a watch of the first stage they are undefined.  Where the last task was not
    watched while it was learned (``current`` is false), what is said is about the earlier ones.
    """

    curves: StepCurves
    items: Sequence[Sequence[tuple[Sequence[int], Items]]] | None
    windows: bool
    current: bool

    def drawn(self, counts: Sequence[Array]) -> StepCurves:
        """The curves of resamples that drew the items of each task as often as ``counts`` [R, items] say."""
        assert self.items is not None
        values = np.full((len(counts[0]), *self.curves.values.shape), math.nan)
        for task, (stages, own) in enumerate(zip(self.items, counts, strict=True)):
            for rows, items in reversed(stages):  # a stage's last measurement goes before the first of the next
                values[:, rows, task] = items.figures(own)
        return dataclasses.replace(self.curves, values=values)

    def figures(self, curves: StepCurves) -> Iterator[tuple[str, Array]]:
        """Those that are defined."""
        for name, figure in FIGURES.items():
            told = name in _OF_EARLIER or (self.current and (self.windows or not name.startswith("windowed")))
            value = figure(curves) if told else None
            if value is not None:
                yield name, value


@dataclass(frozen=True)
class Between:
    """One audit of one run, seed by seed; without seeds nothing was watched, or not all of it."""

    seeds: Sequence[_Seed]
    bounds: Bounds = UNBOUNDED
    """Those of the audit."""

    @classmethod
    def of(
        cls,
        taught: Mapping[str, int],
        better: str,
        watched: Sequence[Sequence[Watched | None]],
        bounds: Bounds = UNBOUNDED,
    ) -> Between:
        """From what each seed's stages watched; ``taught`` has the stage of each task by the name of its curve."""
        seeds = [_seed(stages, taught, better) for stages in watched]
        whole = [own for own in seeds if own is not None]
        return cls(whole if len(whole) == len(seeds) else [], bounds)

    @property
    def suffix(self) -> str:
        """What stands behind the names of the figures: how often was measured."""
        every = self.seeds[0].curves.every
        return "" if every == 1 else f" (every {every} steps)"

    @property
    def values(self) -> _Values:
        """The figures."""
        seeds = [{name: float(value) for name, value in own.figures(own.curves)} for own in self.seeds]
        return {name: [own.get(name) for own in seeds] for name in FIGURES}

    def figures(self, resamples: int, seed: int) -> list[StageFigure]:
        """All of them, with intervals."""
        if not self.seeds:
            return []
        drawn = _drawn([self], resamples, seed)
        found = _with_intervals(self.values, None if drawn is None else drawn[0], self._fewest, self.suffix)
        return [_within(figure, _range(figure.name, self.bounds)) for figure in found]

    def differences(self, other: Between, resamples: int, seed: int) -> list[StageFigure]:
        """The figures minus those of ``other``, paired by item and by seed."""
        if not self.seeds or len(self.seeds) != len(other.seeds) or self.suffix != other.suffix:
            return []
        own, theirs = self.values, other.values
        pairs = {name: zip(own[name], theirs[name], strict=True) for name in FIGURES}
        values = {n: [None if a is None or b is None else a - b for a, b in seeds] for n, seeds in pairs.items()}
        drawn = _drawn([self, other], resamples, seed)
        less = None
        if drawn is not None:
            one, two = drawn
            less = {name: np.subtract(one[name], two[name]) for name in one if name in two}
        found = _with_intervals(values, less, self._fewest, self.suffix)
        return [_within(figure, changes(_range(figure.name, self.bounds))) for figure in found]

    @property
    def _fewest(self) -> int:
        """Items of the task that has fewest."""
        return min(
            (items.effective for own in self.seeds for stages in own.items or () for _, items in stages), default=0
        )


def _seed(stages: Sequence[Watched | None], taught: Mapping[str, int], better: str) -> _Seed | None:
    """One seed's curves end to end, or None where an earlier task was not watched from its own stage on."""
    watched = [stage for stage in _with_the_first(stages, taught) if stage is not None]
    if len(watched) < len(stages) or len({stage.every for stage in watched}) != 1:
        return None
    unseen = [n for n, own in taught.items() if any(n not in s.curves for s in watched[max(own - 1, 0) :])]
    if len(unseen) == len(taught) or any(taught[name] < len(watched) for name in unseen):
        return None
    taught = {name: own for name, own in taught.items() if name not in unseen}
    direction: Literal["higher", "lower"] = "higher" if better == "higher" else "lower"
    curves = StepCurves.joined([s.curves for s in watched], taught, better=direction, every=watched[0].every)
    items = [list(_task(curves, watched, name)) for name in taught]
    ids = [{(own.ids, own.statistic) for _, own in stages} for stages in items]
    kept_of = [sum(s is not None and name in s.curves for s in stages) for name in taught]
    whole = [len(own) for own in items] == kept_of and all(len(own) == 1 for own in ids)
    return _Seed(curves, items if whole else None, stages[0] is not None, not unseen)


def _with_the_first(stages: Sequence[Watched | None], taught: Mapping[str, int]) -> Sequence[Watched | None]:
    """A first stage that was not watched is its end, which the second measures first: nothing could be lost in it."""
    if len(stages) < 2 or stages[0] is not None or stages[1] is None or min(taught.values()) < 1:
        return stages
    next_one = stages[1]
    ends = {n: [(1, next_one.curves[n][0][1])] for n, own in taught.items() if own == 1 and n in next_one.curves}
    return [Watched(next_one.every, ends), *stages[1:]]


def _task(curves: StepCurves, watched: Sequence[Watched], name: str) -> Iterator[tuple[Sequence[int], Items]]:
    """The rows and the items of each stage that watched a task and kept them."""
    for stage, own in enumerate(watched):
        points, start = own.curves.get(name), curves.begins(stage + 1)
        found = None if points is None or own.items is None else kept(own.items, name, points)
        if points is not None and found is not None:
            yield [curves.steps.index(start + step) for step, _ in points], found


def _drawn(arms: Sequence[Between], resamples: int, seed: int) -> list[dict[str, Array]] | None:
    """Each arm's figures of every seed and resample [S, R], the same items drawn for all arms; None without items.

    Seeds that measured the same items share a draw, those with items of their own get their own.
    """
    tasks = [_first_items(own) for own in arms[0].seeds]
    if any(own.items is None for arm in arms for own in arm.seeds) or any(
        _ids(_first_items(own)) != _ids(items) for arm in arms for own, items in zip(arm.seeds, tasks, strict=True)
    ):
        return None
    shared = all(_ids(items) == _ids(tasks[0]) for items in tasks)
    sizes = sum(len(items.ids) for own in (tasks[:1] if shared else tasks) for items in own)
    cells = max(sizes, *(own.curves.values.size for arm in arms for own in arm.seeds))
    rng = np.random.default_rng(seed)
    found: list[dict[str, list[Array]]] = [{} for _ in arms]
    for rows in blocks(resamples, cells):
        draws = [[_counts(rng, rows, items) for items in own] for own in (tasks[:1] if shared else tasks)]
        for arm, figures in zip(arms, found, strict=True):
            for name, value in _of_seeds(arm, draws, shared).items():
                figures.setdefault(name, []).append(value)
    return [{name: np.concatenate(parts, axis=1) for name, parts in figures.items()} for figures in found]


def _first_items(own: _Seed) -> list[Items]:
    """The items of each task at its first stage; a task has the same ones at all."""
    return [stages[0][1] for stages in own.items or ()]


def _ids(tasks: Sequence[Items]) -> list[tuple[str, ...]]:
    return [items.ids for items in tasks]


def _counts(rng: np.random.Generator, rows: int, items: Items) -> Array:
    return draw_counts(rng, rows, items.groups if items.statistic == "auc" else None, len(items.ids))


def _of_seeds(arm: Between, draws: Sequence[Sequence[Array]], shared: bool) -> dict[str, Array]:
    """The figures of every seed [S, R] that are defined."""
    found: dict[str, list[Array]] = {}
    for place, own in enumerate(arm.seeds):
        for name, value in own.figures(own.drawn(draws[0 if shared else place])):
            found.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in found.items() if len(values) == len(arm.seeds)}


def _range(name: str, bounds: Bounds) -> Bounds:
    """The bounds of a figure of an audit with these ``bounds``: what is lost is at least 0, and its area has no end."""
    if name.startswith("gap_area"):
        return 0.0, math.inf
    return (0.0, bounds[1] - bounds[0]) if name.startswith(("gap", "windowed")) else bounds


def _within(figure: StageFigure, bounds: Bounds) -> StageFigure:
    interval = Interval(figure.value, figure.low, figure.high).within(bounds)
    return dataclasses.replace(figure, low=interval.low, high=interval.high)


def _with_intervals(values: _Values, drawn: Mapping[str, Array] | None, items: int, suffix: str) -> list[StageFigure]:
    """Means over the seeds with which a figure is defined."""
    found = []
    for name, own in values.items():
        known = [value for value in own if value is not None]
        if not known:
            found.append(StageFigure(name + suffix))
        elif name == share_recovered.__name__:  # a share of yes and no: its ends would lie beyond 0 and 1
            found.append(StageFigure(name + suffix, fmean(known)))
        elif drawn is None or name not in drawn:
            found.append(StageFigure(name + suffix, *_over_seeds(known)))
        else:
            ends = _mirrored(fmean(known), drawn[name], items)
            found.append(StageFigure(name + suffix, fmean(known), *ends, over_items=True))
    return found


def _mirrored(value: float, drawn: Array, items: int) -> tuple[float, float]:
    """Ends of the interval from draws [S, R] of so many items, which holds ``value``."""
    counts = draw_counts(np.random.default_rng(0), drawn.shape[1], None, len(drawn))
    interval = expanded_interval(value, 2 * value - over_seeds(drawn, counts), items, len(drawn))
    return min(interval.low, value), max(interval.high, value)  # in this order nan stays nan


def _over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) by Student's t; a single seed has no interval."""
    mean = fmean(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    reach = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach
