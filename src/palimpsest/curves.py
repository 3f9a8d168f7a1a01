"""What happens to old tasks between two stages: figures drawn from measurements while a model trains.

    taught = {"first/accuracy": 1, "second/accuracy": 2}          # by the stages 1 and 2
    curves = StepCurves.joined([one.watched, two.watched], taught, better="higher")
    worst_of_earlier(curves)          # min-ACC: how low the old tasks sank on the way
    gap(*curves.during("first/accuracy", stage=2), better="higher").depth

Measured at the ends of stages alone, a sharp passing loss right after each switch (the stability gap) is not seen.
``every`` says after every how many steps was measured: with more than 1 the true worst values may be worse still, so it
belongs beside every figure.  Figures are asked at a step (the last by default) and are None where they are undefined.
"Worst", "drop" and "gap" mean the direction in which the audit gets worse.

Paper: Continual evaluation for lifelong learning (De Lange et al., 2023), arXiv 2205.13452, section 3; ``gap`` after
    Guo et al. (2024), arXiv 2406.14833.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from palimpsest.continual import Better, StageMatrix
from palimpsest.resample import Array

__all__ = [
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
    """``values`` [N, T] of each task after ``steps`` [N], which count over all stages; nan where not measured.

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
        if self.values.shape != (len(self.steps), len(self.tasks)) or len(self.taught) != len(self.tasks):
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
            own = [v for s, v in zip(self.steps, self.values[:, task].tolist()) if s > self.begins(self.taught[task])]
            if not all(map(math.isfinite, own)):
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

    def since(self, task: int, first: int, place: int) -> Array:
        """The values of a task after step ``first`` up to a row, those that were measured."""
        chosen = self.values[int(np.searchsorted(self.steps, first, "right")) : place + 1, task]
        found: Array = chosen[~np.isnan(chosen)]
        return found

    def during(self, name: str, stage: int) -> tuple[list[int], list[float]]:
        """(steps, values) of one task from just before a stage to its end, as ``gap`` takes them."""
        first, last, task = self.begins(stage), self.ends[stage - 1], self.tasks.index(name)
        chosen = [(s, v) for s, v in zip(self.steps, self.values[:, task].tolist()) if first <= s <= last]
        return [s for s, _ in chosen], [v for _, v in chosen]

    @property
    def matrix(self) -> StageMatrix:
        """What measuring at the ends of stages would have seen."""
        rows = np.full((len(self.ends) + 1, len(self.tasks)), math.nan)
        for row, step in enumerate((0, *self.ends)):
            if step in self.steps:
                rows[row] = self.values[self.steps.index(step)]
        return StageMatrix(rows, self.taught, self.better)


def performance_so_far(curves: StepCurves, at: int | None = None) -> float:
    """ACC_t: the mean over the tasks taught so far, that of the current stage included."""
    place = curves.place(at)
    return float(np.mean([curves.values[place, task] for task in curves.seen(place)]))


def forgetting_so_far(curves: StepCurves, at: int | None = None) -> float | None:
    """FORG_t: the mean over earlier tasks of the value at the end of their own stage minus that at step t."""
    place = curves.place(at)
    lost = []
    for task, end in _earlier(curves, place):
        if end not in curves.steps:
            return None
        change = curves.values[curves.steps.index(end), task] - curves.values[place, task]
        lost.append(change if curves.better == "higher" else -change)
    return float(np.mean(lost)) if lost else None


def worst_of_earlier(curves: StepCurves, at: int | None = None) -> float | None:
    """min-ACC_t: the mean over earlier tasks of their worst value at any step after their own stage ended.

    The task of the current stage and the time before a task was learned do not count.  For losses it is the largest.
    """
    worst = _worst(curves, curves.place(at))
    return float(np.mean(worst)) if worst else None


def worst_case_performance(curves: StepCurves, at: int | None = None) -> float | None:
    """WC-ACC_t = A(k, t) / k + (1 - 1 / k) min-ACC_t: the current task as it is, the earlier ones at their worst."""
    place = curves.place(at)
    worst = _worst(curves, place)
    if worst is None:
        return None
    current = [curves.values[place, task] for task, own in enumerate(curves.taught) if own == curves.stage(place)]
    return float(np.mean([*current, *worst]))


def _earlier(curves: StepCurves, place: int) -> list[tuple[int, int]]:
    """(task, step at which its own stage ended) of the tasks taught before the stage of a row."""
    stage = curves.stage(place)
    return [(t, curves.ends[own - 1] if own else 0) for t, own in enumerate(curves.taught) if own < stage]


def _worst(curves: StepCurves, place: int) -> list[float] | None:
    """The worst value of each earlier task, None where one has not been measured since."""
    found = []
    for task, end in _earlier(curves, place):
        values = curves.since(task, end, place)
        if not len(values):
            return None
        found.append(float(values.min() if curves.better == "higher" else values.max()))
    return found


def largest_drop(values: Sequence[float] | Array, window: int) -> float:
    """max over m < n within ``window`` successive values of values[m] - values[n], at least 0."""
    if window < 2:
        raise ValueError(f"A window holds at least 2 values, since it compares two of them, not {window}.")
    x = np.asarray(values, dtype=np.float64)
    lags = range(1, min(window, len(x)))
    return max([0.0, *(float((x[:-lag] - x[lag:]).max()) for lag in lags)])


def largest_rise(values: Sequence[float] | Array, window: int) -> float:
    """max over m < n within ``window`` successive values of values[n] - values[m], at least 0."""
    return largest_drop(-np.asarray(values, dtype=np.float64), window)


def windowed_forgetting(curves: StepCurves, window: int, at: int | None = None) -> float:
    """WF^w: the mean over the tasks taught so far of the largest loss within ``window`` successive measurements.

    A small window shows fast drops, a large one slow ones too.  A task's curve begins just before its own stage.
    """
    return _windowed(curves, window, at, curves.better == "higher")


def windowed_plasticity(curves: StepCurves, window: int, at: int | None = None) -> float:
    """WP^w: the same with the largest gain."""
    return _windowed(curves, window, at, curves.better == "lower")


def _windowed(curves: StepCurves, window: int, at: int | None, falling: bool) -> float:
    place = curves.place(at)
    worst = largest_drop if falling else largest_rise
    own = [curves.since(task, curves.begins(curves.taught[task]) - 1, place) for task in curves.seen(place)]
    return float(np.mean([worst(values, window) for values in own]))


def learning_curve_area(curves: StepCurves, count: int, at: int | None = None) -> float | None:
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
        if len(values) >= count:
            areas.append(float(values[:count].mean()))
    return float(np.mean(areas)) if areas else None


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
    sign = 1.0 if better == "higher" else -1.0
    x = sign * np.asarray(values, dtype=np.float64)
    missing = np.maximum(0.0, x[0] - x)
    lowest, best = int(x.argmin()), int(x.argmax())
    recovery: int | None = 0
    if missing[lowest] > 0:
        back = [n for n in range(lowest + 1, len(x)) if x[n] >= x[0]]
        recovery = steps[back[0]] - steps[0] if back else None
    area = float((missing[1:] * np.diff(steps)).sum())
    return Gap(float(missing[lowest]), recovery, area, float(values[best]), steps[best] - steps[0])


def gap_depth(curves: StepCurves) -> float | None:
    """The mean over earlier tasks of the depth of their gap in the last stage."""
    return _mean([own.depth for own in _gaps(curves)])


def gap_area(curves: StepCurves) -> float | None:
    """The same of its area, in units of the audit times steps."""
    return _mean([own.area for own in _gaps(curves)])


def share_recovered(curves: StepCurves) -> float | None:
    """The share of earlier tasks that come back, within the last stage, to what they were before it."""
    return _mean([float(own.recovery is not None) for own in _gaps(curves)])


def _gaps(curves: StepCurves) -> list[Gap]:
    """The gaps of the tasks taught before the last stage, in that stage."""
    last = len(curves.ends)
    earlier = [name for name, own in zip(curves.tasks, curves.taught, strict=True) if own < last]
    return [gap(*curves.during(name, last), better=curves.better) for name in earlier]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
