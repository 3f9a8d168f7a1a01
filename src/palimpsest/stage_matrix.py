"""The stage matrix of a run: every task's audit before and after every stage, and the figures drawn from it.

A recipe's ``tasks`` say which stage teaches which role; every audit that is measured on more than one of those roles
in one direction gives a matrix.  Roles with that audit that no stage teaches are held out: what the stages did to them
is ``held_out_change``.  Where all stages watch the tasks, the figures of what happens between the stages stand beside.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from palimpsest.audit import Scores
from palimpsest.continual import Cells, intervals, matrix_of
from palimpsest.curves import (
    StepCurves,
    gap_area,
    gap_depth,
    share_recovered,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_performance,
    worst_of_earlier,
)
from palimpsest.report import Matrix, StageFigure
from palimpsest.resample import student_quantile
from palimpsest.run_folder import read_scores
from palimpsest.watch import Watched

__all__ = ["BEFORE", "Staged", "WatchedStages", "stage_matrices"]

BEFORE = "before"
"""The key in ``tasks`` for what the stages before the first task's taught."""

Rows = Sequence[tuple[str, Path]]
"""Of one seed: each stage and the file of what was measured after it; first what was before any of them."""

Staged = Mapping[str, Mapping[int, Rows]]
"""Run -> seed -> rows.  Of all that they hold, one audit at a time is in memory."""


WatchedStages = Mapping[str, Mapping[int, Sequence[Watched | None]]]
"""Run -> seed -> what each stage measured on the way, None where it did not."""

_BETWEEN: Mapping[str, Callable[[StepCurves], float | None]] = {
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


def stage_matrices(
    staged: Staged,
    tasks: Mapping[str, str],
    watched: WatchedStages | None = None,
    *,
    chance: Mapping[str, float] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Matrix]:
    """One matrix for each run and audit, means over seeds, with intervals over items and seeds beside its figures.

    ``chance`` is what a model without any skill scores, by audit.

    Runs that lack the stage of one of the tasks, such as one that trains on all of them together, have none.
    """
    found = []
    for run, by_seed in staged.items():
        stages = [name for name, _ in next(iter(by_seed.values()))]
        if not all(stage in stages for stage in tasks):
            continue
        for audit in _audits(next(iter(by_seed.values())), tasks):
            level = (chance or {}).get(audit)
            matrix = _matrix(run, audit, by_seed, stages, tasks, level, resamples, seed)
            between = _between(matrix, list((watched or {}).get(run, {}).values()), tasks)
            found.append(dataclasses.replace(matrix, figures=(*matrix.figures, *between)))
    return found


def _between(matrix: Matrix, seeds: Sequence[Sequence[Watched | None]], tasks: Mapping[str, str]) -> list[StageFigure]:
    """What happened between the stages, means and 95 % Student intervals over seeds; nothing unless all was watched."""
    taught = {f"{role}/{matrix.audit}": matrix.stages.index(stage) for stage, role in tasks.items()}
    curves = [_joined(stages, taught, matrix.better) for stages in seeds]
    if not curves or any(own is None for own in curves):
        return []
    every = curves[0].every if curves[0] is not None else 1
    often = "" if every == 1 else f" (every {every} steps)"
    found = []
    for name, figure in _BETWEEN.items():
        values = [value for own in curves if own is not None and (value := figure(own)) is not None]
        spread = _over_seeds(values) if values else ()
        # A share of yes and no over a few seeds has no Student interval: its ends would lie beyond 0 and 1.
        found.append(StageFigure(name + often, *(spread[:1] if figure is share_recovered else spread)))
    return found


def _joined(stages: Sequence[Watched | None], taught: Mapping[str, int], better: str) -> StepCurves | None:
    """One seed's curves end to end, or None where a task was not watched from its own stage on."""
    watched = [stage for stage in stages if stage is not None]
    if len(watched) < len(stages) or len({stage.every for stage in watched}) != 1:
        return None
    for name, own in taught.items():
        if any(name not in stage.curves for stage in watched[max(own - 1, 0) :]):
            return None
    direction: Literal["higher", "lower"] = "higher" if better == "higher" else "lower"
    return StepCurves.joined([s.curves for s in watched], taught, better=direction, every=watched[0].every)


def _over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high); a single seed has no interval."""
    mean = fmean(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    reach = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def _audits(rows: Rows, tasks: Mapping[str, str]) -> list[str]:
    """The audits measured on all tasks in the same direction, of which there are at least two."""
    roles = list(tasks.values())
    by_name: dict[str, dict[str, str]] = {}
    for s in read_scores(rows[-1][1]):
        by_name.setdefault(s.name, {})[s.role] = s.better
    return [
        name
        for name, better in by_name.items()
        if len(roles) > 1 and all(r in better for r in roles) and set(better.values()) in ({"higher"}, {"lower"})
    ]


def _matrix(
    run: str,
    audit: str,
    by_seed: Mapping[int, Rows],
    stages: Sequence[str],
    tasks: Mapping[str, str],
    chance: float | None,
    resamples: int,
    seed: int,
) -> Matrix:
    measured = [[_by_role(file, audit) for _, file in rows] for rows in by_seed.values()]  # [seed][stage]
    first = measured[0][-1]
    roles = [*tasks.values(), *(role for role in first if role not in tasks.values())]
    taught = [stages.index(stage) for stage in tasks] + [None] * (len(roles) - len(tasks))
    cells: list[Cells] = [[[own.get(role) for role in roles] for own in rows] for rows in measured]
    values = np.mean([matrix_of(own, taught).values for own in cells], axis=0)  # [S + 1, roles]
    levels = None if chance is None else [chance] * len(roles)
    figures = [
        StageFigure(name) if interval is None else StageFigure(name, interval.value, interval.low, interval.high)
        for name, interval in intervals(cells, taught, chance=levels, resamples=resamples, seed=seed).items()
    ]
    better = first[roles[0]].better
    return Matrix(audit, tuple(stages), tuple(roles), tuple(map(tuple, values.tolist())), better, run, tuple(figures))


def _by_role(file: Path, audit: str) -> dict[str, Scores]:
    """One audit's items of every role after one stage, without the texts that the model said."""
    return {s.role: dataclasses.replace(s, outputs=None) for s in read_scores(file, audit)}
