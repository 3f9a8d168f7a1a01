"""What happens to old tasks between two stages: figures drawn from measurements while a model trains.

    taught = {"first/accuracy": 1, "second/accuracy": 2}          # by the stages 1 and 2
    curves = StepCurves.joined([one.watched, two.watched], taught, better="higher")
    worst_of_earlier(curves)          # min-ACC: how low the old tasks sank on the way
    gap(*curves.during("first/accuracy", stage=2), better="higher").depth

Measured at the ends of stages alone, a sharp passing loss right after each switch (the stability gap) is not seen.
``every`` says after every how many steps was measured: with more than 1 the true worst values may be worse still, so it
belongs beside every figure.  Figures are asked at a step (the last by default) and are None where they are undefined.
"Worst", "drop" and "gap" mean the direction in which the audit gets worse.  Many curves at once, such as resamples of
the items behind them, are leading dimensions of ``values``, and then of every figure.

Paper: Continual evaluation for lifelong learning (De Lange et al., 2023), arXiv 2205.13452, section 3; ``gap`` after
    Guo et al. (2024), arXiv 2406.14833.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from palimpsest.continual import Better, StageMatrix
from palimpsest.resample import Array

__all__ = [
    "CurveFigure",
    "Gap",
    "Points",
    "StepCurves",
    "forgetting_so_far",
    "gap",
    "gap_area",
    "gap_depth",
    "largest_drop",
    "largest_rise",
    "learning_curve_area",
    "performance_so_far",
    "share_recovered",
    "windowed_forgetting",
    "windowed_plasticity",
    "worst_case_performance",
    "worst_of_earlier",
]

Points = Sequence[tuple[int, float]]
"""(step of the stage, value), 0 before the first step."""


@dataclass(frozen=True)
class StepCurves:
    """``values`` [..., N, T] of each task after ``steps`` [N], which count over all stages; nan where not measured.

    ``ends`` [S] are the steps at which the stages ended, ``taught`` [T] the stage (from 1) that teaches each task, 0
    for what the model could do before.  A task must be measured at every step from the first one of its own stage on.
    """

    tasks: tuple[str, ...]
    steps: tuple[int, ...]
    values: Array
    ends: tuple[int, ...]
    taught: tuple[int, ...]
    better: Better
    every: int

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better says which direction is an improvement, higher or lower, not {self.better!r}.")
        if self.values.shape[-2:] != (len(self.steps), len(self.tasks)) or len(self.taught) != len(self.tasks):
            raise ValueError(
                f"Values of shape {self.values.shape} do not fit {len(self.steps)} steps and {len(self.tasks)} tasks."
            )
        for name, numbers in (("steps", self.steps), ("ends", self.ends)):
            if not numbers or any(b <= a for a, b in pairwise(numbers)) or numbers[0] < 0:
                raise ValueError(f"The {name} of a curve must rise from measurement to measurement, not {numbers[:9]}.")
        if self.steps[-1] > self.ends[-1]:
            raise ValueError(f"Step {self.steps[-1]} was measured after the last stage ended, at {self.ends[-1]}.")
        if any(not 0 <= own <= len(self.ends) for own in self.taught):
            raise ValueError(f"A task is taught by one of the stages 1 to {len(self.ends)}, or 0, not {self.taught}.")
        for task, name in enumerate(self.tasks):
            first = int(np.searchsorted(self.steps, self.begins(self.taught[task]), "right"))
            if not np.isfinite(self.values[..., first:, task]).all():
                raise ValueError(f"{name} has no finite value at a step of its own stage or later; measure it there.")

    @classmethod
    def joined(
        cls, stages: Sequence[Mapping[str, Points]], taught: Mapping[str, int], *, better: Better, every: int = 1
    ) -> StepCurves:
        """The curves of consecutive stages, each counted from its own start, end to end.

        The measurement before a stage's first step sees the model of the last one before it: it adds what was not
        measured then.
        """
        found: dict[int, dict[str, float]] = {}
        ends: list[int] = []
        for curves in stages:
            start = ends[-1] if ends else 0
            for name in taught:
                for step, value in curves.get(name, ()):
                    found.setdefault(start + step, {}).setdefault(name, value)
            ends.append(max(found, default=0))
        steps = sorted(found)
        values = [[found[step].get(name, math.nan) for name in taught] for step in steps]
        shaped = np.array(values, dtype=np.float64).reshape(len(steps), len(taught))
        return cls(tuple(taught), tuple(steps), shaped, tuple(ends), tuple(taught.values()), better, every)

    def begins(self, stage: int) -> int:
        """The last step before a stage, -1 for what was there before any."""
        return -1 if stage == 0 else self.ends[stage - 2] if stage > 1 else 0

    def place(self, at: int | None) -> int:
        """Row of the last measurement up to step ``at``."""
        place = int(np.searchsorted(self.steps, math.inf if at is None else at, "right")) - 1
        if place < 0:
            raise ValueError(f"Nothing was measured up to step {at}; the first measurement is at {self.steps[0]}.")
        return place

    def stage(self, place: int) -> int:
        """The stage to which a row belongs; the measurement before its first step belongs to the stage before."""
        return int(np.searchsorted(self.ends, self.steps[place], "left")) + 1

    def seen(self, place: int) -> list[int]:
        """The tasks taught up to the stage of a row."""
        return [task for task, own in enumerate(self.taught) if own <= self.stage(place)]

    def cell(self, place: int, task: int) -> Array:
        """The value of a task in a row, [...]."""
        found: Array = self.values[..., place, task]
        return found

    def since(self, task: int, first: int, place: int) -> Array:
        """The values of a task after step ``first`` up to a row, those that were measured, [..., M]."""
        chosen = self.values[..., int(np.searchsorted(self.steps, first, "right")) : place + 1, task]
        found: Array = chosen[..., ~np.isnan(chosen).any(tuple(range(chosen.ndim - 1)))]
        return found

    def within(self, task: int, stage: int) -> tuple[list[int], Array]:
        """(steps [M], values [..., M]) of one task from just before a stage to its end."""
        first, last = self.begins(stage), self.ends[stage - 1]
        rows = [row for row, step in enumerate(self.steps) if first <= step <= last]
        return [self.steps[row] for row in rows], self.values[..., rows, task]

    def during(self, name: str, stage: int) -> tuple[list[int], list[float]]:
        """The same of one curve, as ``gap`` takes it."""
        steps, values = self.within(self.tasks.index(name), stage)
        return steps, values.tolist()

    @property
    def matrix(self) -> StageMatrix:
        """What measuring at the ends of stages would have seen."""
        rows = np.full((*self.values.shape[:-2], len(self.ends) + 1, len(self.tasks)), math.nan)
        for row, step in enumerate((0, *self.ends)):
            if step in self.steps:
                rows[..., row, :] = self.values[..., self.steps.index(step), :]
        return StageMatrix(rows, self.taught, self.better)


CurveFigure = Callable[[StepCurves], Array | None]
"""A figure after the last step: [...], or None where it is undefined."""


def performance_so_far(curves: StepCurves, at: int | None = None) -> Array:
    """ACC_t: the mean over the tasks taught so far, that of the current stage included."""
    place = curves.place(at)
    found: Array = np.mean([curves.cell(place, task) for task in curves.seen(place)], axis=0)
    return found


def forgetting_so_far(curves: StepCurves, at: int | None = None) -> Array | None:
    """FORG_t: the mean over earlier tasks of the value at the end of their own stage minus that at step t."""
    place = curves.place(at)
    lost: list[Array] = []
    for task, end in _earlier(curves, place):
        if end not in curves.steps:
            return None
        change = np.subtract(curves.cell(curves.steps.index(end), task), curves.cell(place, task))
        lost.append(change if curves.better == "higher" else np.negative(change))
    return _mean(lost)


def worst_of_earlier(curves: StepCurves, at: int | None = None) -> Array | None:
    """min-ACC_t: the mean over earlier tasks of their worst value at any step after their own stage ended.

    The task of the current stage and the time before a task was learned do not count.  For losses it is the largest.
    """
    return _mean(_worst(curves, curves.place(at)) or [])


def worst_case_performance(curves: StepCurves, at: int | None = None) -> Array | None:
    """WC-ACC_t = A(k, t) / k + (1 - 1 / k) min-ACC_t: the current task as it is, the earlier ones at their worst."""
    place = curves.place(at)
    worst = _worst(curves, place)
    if worst is None:
        return None
    current = [curves.cell(place, task) for task, own in enumerate(curves.taught) if own == curves.stage(place)]
    return _mean([*current, *worst])


def _earlier(curves: StepCurves, place: int) -> list[tuple[int, int]]:
    """(task, step at which its own stage ended) of the tasks taught before the stage of a row."""
    stage = curves.stage(place)
    return [(t, curves.ends[own - 1] if own else 0) for t, own in enumerate(curves.taught) if own < stage]


def _worst(curves: StepCurves, place: int) -> list[Array] | None:
    """The worst value of each earlier task, None where one has not been measured since."""
    found: list[Array] = []
    for task, end in _earlier(curves, place):
        values = curves.since(task, end, place)
        if not values.shape[-1]:
            return None
        found.append(values.min(-1) if curves.better == "higher" else values.max(-1))
    return found


def largest_drop(values: Sequence[float] | Array, window: int) -> Array:
    """max over m < n within ``window`` successive ones of ``values`` [..., N] of values[m] - values[n], at least 0."""
    if window < 2:
        raise ValueError(f"A window holds at least 2 values, since it compares two of them, not {window}.")
    x = np.asarray(values, dtype=np.float64)
    highest, reach = x.copy(), 1  # of the last ``reach`` values up to each place; two of them overlap to a longer one
    while reach < min(window, x.shape[-1]):
        more = min(reach, window - reach)
        highest[..., more:] = np.maximum(highest[..., more:], highest[..., :-more])
        reach += more
    found: Array = (highest - x).max(-1, initial=0.0)
    return found


def largest_rise(values: Sequence[float] | Array, window: int) -> Array:
    """max over m < n within ``window`` successive ones of ``values`` [..., N] of values[n] - values[m], at least 0."""
    return largest_drop(-np.asarray(values, dtype=np.float64), window)


def windowed_forgetting(curves: StepCurves, window: int, at: int | None = None) -> Array:
    """WF^w: the mean over the tasks taught so far of the largest loss within ``window`` successive measurements.

    A small window shows fast drops, a large one slow ones too.  A task's curve begins just before its own stage.
    """
    return _windowed(curves, window, at, curves.better == "higher")


def windowed_plasticity(curves: StepCurves, window: int, at: int | None = None) -> Array:
    """WP^w: the same with the largest gain."""
    return _windowed(curves, window, at, curves.better == "lower")


def _windowed(curves: StepCurves, window: int, at: int | None, falling: bool) -> Array:
    place = curves.place(at)
    worst = largest_drop if falling else largest_rise
    own = [curves.since(task, curves.begins(curves.taught[task]) - 1, place) for task in curves.seen(place)]
    found: Array = np.mean([worst(values, window) for values in own], axis=0)
    return found


def learning_curve_area(curves: StepCurves, count: int, at: int | None = None) -> Array | None:
    """LCA: the mean of a task's first ``count`` values while it is learned, over the tasks that have as many.

    The measurement just before its stage is the first of them where the task was measured then (A-GEM's LCA_b counts
    it: ``count`` = b + 1).
    """
    if count < 1:
        raise ValueError(f"count is at least 1, not {count}.")
    place, areas = curves.place(at), []
    for task in curves.seen(place):
        own = curves.taught[task]
        if own == 0:
            continue
        last = min(place, curves.place(curves.ends[own - 1]))
        values = curves.since(task, curves.begins(own) - 1, last)
        if values.shape[-1] >= count:
            areas.append(values[..., :count].mean(-1))
    return _mean(areas)


@dataclass(frozen=True)
class Gap:
    """How far one curve sinks below its first value and when it is back.

    ``depth`` is 0 where it never sinks.  ``recovery`` counts steps from the start to the first measurement after the
    lowest one that is as good as the start: 0 without a gap, None where there is none.  ``area`` sums what is missing
    to the first value, times the steps since the measurement before.  ``peak`` is the best value, after ``peak_after``
    steps.
    """

    depth: float
    recovery: int | None
    area: float
    peak: float
    peak_after: int


def gap(steps: Sequence[int], values: Sequence[float], *, better: Better) -> Gap:
    """The stability gap of one old task's curve; the first value is the one before the switch."""
    if len(steps) != len(values) or not len(steps):
        raise ValueError(f"There are {len(values)} values for {len(steps)} steps; give one each, and at least one.")
    if any(b <= a for a, b in pairwise(steps)) or not all(map(math.isfinite, values)):
        raise ValueError("A curve needs rising steps and finite values; sort it and leave out what was not measured.")
    missing, back = _missing(np.asarray(values, dtype=np.float64), better)
    best = int(np.argmax(values) if better == "higher" else np.argmin(values))
    recovery: int | None = 0
    if missing.max() > 0:
        recovery = steps[int(back.argmax())] - steps[0] if back.any() else None
    area = float((missing[1:] * np.diff(steps)).sum())
    return Gap(float(missing.max()), recovery, area, float(values[best]), steps[best] - steps[0])


def _missing(values: Array, better: Better) -> tuple[Array, NDArray[np.bool_]]:
    """What ``values`` [..., M] lack to their first, and whether one comes after the lowest and lacks nothing."""
    lost = np.subtract(values[..., :1], values) if better == "higher" else np.subtract(values, values[..., :1])
    missing: Array = np.maximum(0.0, lost)
    lowest = missing.argmax(-1)[..., None]
    return missing, (missing == 0) & (np.arange(values.shape[-1]) > lowest)


def gap_depth(curves: StepCurves) -> Array | None:
    """The mean over earlier tasks of the depth of their gap in the last stage."""
    return _mean([missing.max(-1) for _, missing, _ in _gaps(curves)])


def gap_area(curves: StepCurves) -> Array | None:
    """The same of its area, in units of the audit times steps."""
    return _mean([(missing[..., 1:] * np.diff(steps)).sum(-1) for steps, missing, _ in _gaps(curves)])


def share_recovered(curves: StepCurves) -> Array | None:
    """The share of earlier tasks that come back, within the last stage, to what they were before it."""
    return _mean([np.where(missing.max(-1) > 0, back.any(-1), True) * 1.0 for _, missing, back in _gaps(curves)])


def _gaps(curves: StepCurves) -> list[tuple[list[int], Array, NDArray[np.bool_]]]:
    """Steps, what is missing, and where it is back, of the tasks taught before the last stage, in that stage."""
    last = len(curves.ends)
    found = []
    for task, own in enumerate(curves.taught):
        if own < last:
            steps, values = curves.within(task, last)
            found.append((steps, *_missing(values, curves.better)))
    return found


def _mean(values: Sequence[Array]) -> Array | None:
    """Over tasks; None without any."""
    return np.mean(values, axis=0) if values else None
