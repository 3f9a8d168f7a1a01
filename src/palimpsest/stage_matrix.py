"""The stage matrix of a run: every task's audit before and after every stage, and the figures drawn from it.

A recipe's ``tasks`` say which stage teaches which role; every audit that is measured on more than one of those roles
in one direction gives a matrix.  Roles with that audit that no stage teaches are held out: what the stages did to them
is ``held_out_change``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from palimpsest.audit import Scores
from palimpsest.continual import Cells, intervals, matrix_of
from palimpsest.report import Matrix, StageFigure

__all__ = ["BEFORE", "Staged", "stage_matrices"]

BEFORE = "before"
"""The key in ``tasks`` for what the stages before the first task's taught."""

Staged = Mapping[str, Mapping[int, Sequence[tuple[str, Sequence[Scores]]]]]
"""Run -> seed -> what was measured (stage, scores): first before any of its stages, then after each."""


def stage_matrices(staged: Staged, tasks: Mapping[str, str], *, resamples: int = 2000, seed: int = 0) -> list[Matrix]:
    """One matrix for each run and audit, means over seeds, with intervals over items and seeds beside its figures.

    Runs that lack the stage of one of the tasks, such as one that trains on all of them together, have none.
    """
    found = []
    for run, by_seed in staged.items():
        stages = [name for name, _ in next(iter(by_seed.values()))]
        if not all(stage in stages for stage in tasks):
            continue
        for audit in _audits(by_seed, tasks):
            found.append(_matrix(run, audit, by_seed, stages, tasks, resamples, seed))
    return found


def _audits(by_seed: Mapping[int, Sequence[tuple[str, Sequence[Scores]]]], tasks: Mapping[str, str]) -> list[str]:
    """The audits measured on all tasks in the same direction, of which there are at least two."""
    _, scores = next(iter(by_seed.values()))[-1]
    roles = list(tasks.values())
    by_name: dict[str, dict[str, str]] = {}
    for s in scores:
        by_name.setdefault(s.name, {})[s.role] = s.better
    return [
        name
        for name, better in by_name.items()
        if len(roles) > 1 and all(r in better for r in roles) and set(better.values()) in ({"higher"}, {"lower"})
    ]


def _matrix(
    run: str,
    audit: str,
    by_seed: Mapping[int, Sequence[tuple[str, Sequence[Scores]]]],
    stages: Sequence[str],
    tasks: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Matrix:
    first = {s.role: s for s in next(iter(by_seed.values()))[-1][1] if s.name == audit}
    roles = [*tasks.values(), *(role for role in first if role not in tasks.values())]
    taught = [stages.index(stage) for stage in tasks] + [None] * (len(roles) - len(tasks))
    cells = [_cells(rows, audit, roles) for rows in by_seed.values()]
    values = np.mean([matrix_of(own, taught).values for own in cells], axis=0)  # [S + 1, roles]
    figures = [
        StageFigure(name) if interval is None else StageFigure(name, interval.value, interval.low, interval.high)
        for name, interval in intervals(cells, taught, resamples=resamples, seed=seed).items()
    ]
    better = first[roles[0]].better
    return Matrix(audit, tuple(stages), tuple(roles), tuple(map(tuple, values.tolist())), better, run, tuple(figures))


def _cells(rows: Sequence[tuple[str, Sequence[Scores]]], audit: str, roles: Sequence[str]) -> Cells:
    """One seed's cells, [stage][role]."""
    return [[next((s for s in scores if (s.role, s.name) == (r, audit)), None) for r in roles] for _, scores in rows]
