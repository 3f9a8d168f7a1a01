"""The stage matrix of a run: every task's audit before and after every stage, and the figures drawn from it.

A recipe's ``tasks`` say which stage teaches which role; every audit that is measured on more than one of those roles
in one direction gives a matrix.  Roles with that audit that no stage teaches are held out: what the stages did to them
is ``held_out_change``.  Where all stages watch the tasks, the figures of ``between_stages`` stand beside.
Of every run but ``after`` the differences of its figures to those of ``after`` are drawn too, on the same resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from palimpsest.audit import UNBOUNDED, Bounds, Scores
from palimpsest.between_stages import Between
from palimpsest.continual import FIGURES, Cells, MatrixFigure, StageMatrix, intervals, matrix_of
from palimpsest.report import Matrix, StageFigure
from palimpsest.resample import Array
from palimpsest.run_folder import Asked, read_scores
from palimpsest.statistics import Interval, changes
from palimpsest.watch import Watched

__all__ = ["BEFORE", "Staged", "WatchedStages", "stage_matrices"]

BEFORE = "before"
"""The key in ``tasks`` for what the stages before the first task's taught."""

AFTER = "after"
"""The run whose figures are taken off those of the others."""

LEVELS = ("overall_performance", "average_performance", "performance_when_taught")
"""Figures that are means of what was measured; the others are means of differences of that."""

UNBOUNDED_FIGURES = ("forgotten_per_gained", "forward_transfer")
"""A quotient, and what is held against a level of chance that the user gives."""

Rows = Sequence[tuple[str, Path]]
"""Of one seed: each stage and the file of what was measured after it; first what was before any of them."""

Staged = Mapping[str, Mapping[int, Rows]]
"""Run -> seed -> rows.  Of all that they hold, one audit at a time is in memory."""


WatchedStages = Mapping[str, Mapping[int, Sequence[Watched | None]]]
"""Run -> seed -> what each stage measured on the way, None where it did not."""


@dataclass(frozen=True)
class _Sequence:
    """One audit of one run, and what happened ``between`` the stages."""

    run: str
    audit: str
    stages: Sequence[str]
    roles: Sequence[str]
    taught: Sequence[int | None]
    better: str
    bounds: Bounds
    cells: Sequence[Cells]
    chance: Sequence[float] | None
    between: Between


def stage_matrices(
    staged: Staged,
    tasks: Mapping[str, str],
    watched: WatchedStages | None = None,
    *,
    asked: Asked | None = None,
    chance: Mapping[str, float] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Matrix]:
    """One matrix for each run and audit, means over seeds, with intervals over items and seeds beside its figures.

    ``asked`` are the audits, all that the files hold if nothing is said.  ``chance`` is what a model without any skill
    scores, by audit.

    Runs that lack the stage of one of the tasks, such as one that trains on all of them together, have none.
    """
    found = []
    for run, by_seed in staged.items():
        if not all(stage in _stages(by_seed) for stage in tasks):
            continue
        for audit in _audits(next(iter(by_seed.values())), tasks, asked):
            level = (chance or {}).get(audit)
            own = _sequence(run, audit, by_seed, tasks, (watched or {}).get(run, {}), asked, level)
            matrix = _matrix(own, resamples, seed)
            if run != AFTER and AFTER in staged:
                after = _sequence(AFTER, audit, staged[AFTER], tasks, (watched or {}).get(AFTER, {}), asked, level)
                matrix = dataclasses.replace(matrix, differences=_differences(own, after, resamples, seed))
            found.append(matrix)
    return found


def _stages(by_seed: Mapping[int, Rows]) -> list[str]:
    return [name for name, _ in next(iter(by_seed.values()))]


def _sequence(
    run: str,
    audit: str,
    by_seed: Mapping[int, Rows],
    tasks: Mapping[str, str],
    watched: Mapping[int, Sequence[Watched | None]],
    asked: Asked | None,
    chance: float | None,
) -> _Sequence:
    """Reads one audit of one run."""
    stages = _stages(by_seed)
    measured = [[_by_role(file, audit, asked) for _, file in rows] for rows in by_seed.values()]  # [seed][stage]
    first = measured[0][-1]
    roles = [*tasks.values(), *(role for role in first if role not in tasks.values())]
    taught = [stages.index(stage) for stage in tasks] + [None] * (len(roles) - len(tasks))
    cells: list[Cells] = [[[own.get(role) for role in roles] for own in rows] for rows in measured]
    better = first[roles[0]].better
    places = {f"{role}/{audit}": stages.index(stage) for stage, role in tasks.items()}
    bounds = first[roles[0]].range
    between = Between.of(places, better, list(watched.values()), bounds)
    levels = None if chance is None else [chance] * len(roles)
    return _Sequence(run, audit, stages, roles, taught, better, bounds, cells, levels, between)


def _matrix(own: _Sequence, resamples: int, seed: int) -> Matrix:
    values = np.mean([matrix_of(cells, own.taught).values for cells in own.cells], axis=0)  # [S + 1, roles]
    found = intervals(own.cells, own.taught, chance=own.chance, resamples=resamples, seed=seed)
    figures = (*_figures(found, own.bounds), *own.between.figures(resamples, seed))
    rows = tuple(map(tuple, values.tolist()))
    return Matrix(own.audit, tuple(own.stages), tuple(own.roles), rows, own.better, own.run, figures)


def _differences(own: _Sequence, other: _Sequence, resamples: int, seed: int) -> tuple[StageFigure, ...]:
    """The figures of ``own`` minus those of ``other``.

    Both are laid into one matrix, one below the other, so that a resample draws the same items and seeds for both.
    """
    both: list[Cells] = [[*a, *b] for a, b in zip(own.cells, other.cells, strict=True)]
    wanted = {
        name: partial(_minus, figure=figure, rows=len(own.stages), taught=tuple(other.taught))
        for name, figure in FIGURES.items()
    }
    found = intervals(both, own.taught, wanted, chance=own.chance, resamples=resamples, seed=seed)
    return (*_figures(found, changes(own.bounds)), *own.between.differences(other.between, resamples, seed))


def _minus(matrix: StageMatrix, figure: MatrixFigure, rows: int, taught: tuple[int | None, ...]) -> Array | None:
    """The figure of the first ``rows`` rows minus that of the others, whose tasks are ``taught`` by other stages."""
    own = figure(dataclasses.replace(matrix, values=matrix.values[..., :rows, :]))
    other = figure(dataclasses.replace(matrix, values=matrix.values[..., rows:, :], taught=taught))
    return None if own is None or other is None else np.subtract(own, other)


def _figures(found: Mapping[str, Interval | None], bounds: Bounds) -> list[StageFigure]:
    """Undefined figures are nan; ``bounds`` are those of the means of cells, or of their differences."""
    ends = {name: bounds if name in LEVELS else changes(bounds) for name in found if name not in UNBOUNDED_FIGURES}
    whole = {name: None if i is None else i.within(ends.get(name, UNBOUNDED)) for name, i in found.items()}
    return [
        StageFigure(name) if i is None else StageFigure(name, i.value, i.low, i.high, over_items=True)
        for name, i in whole.items()
    ]


def _audits(rows: Rows, tasks: Mapping[str, str], asked: Asked | None) -> list[str]:
    """The audits measured on all tasks in the same direction, of which there are at least two."""
    roles = list(tasks.values())
    by_name: dict[str, dict[str, str]] = {}
    for s in read_scores(rows[-1][1], asked=asked):
        by_name.setdefault(s.name, {})[s.role] = s.better
    return [
        name
        for name, better in by_name.items()
        if len(roles) > 1 and all(r in better for r in roles) and set(better.values()) in ({"higher"}, {"lower"})
    ]


def _by_role(file: Path, audit: str, asked: Asked | None) -> dict[str, Scores]:
    """One audit's items of every role after one stage, without the texts that the model said."""
    return {s.role: dataclasses.replace(s, outputs=None) for s in read_scores(file, audit, asked=asked)}
