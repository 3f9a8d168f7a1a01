"""What a model that learns in stages kept: figures drawn from one measurement of every task after every stage.

    rows = [[.2, .1, .1], [.9, .1, .1], [.7, .8, .2], [.6, .75, .85]]
    figures(StageMatrix.of(rows, taught=(1, 2, 3), better="higher"))["backward_transfer"]    # -0.175

Row 0 is the model before any stage, row s the model after stage s; a column is a task.  ``taught`` names the stage that
teaches a task: 0 for what the model could do at the start, None for a task that no stage teaches.

Every figure is a function of the matrix and of the stage after which it is asked (the last by default).  It is None
where it is undefined: before a second stage, for want of a task, or for want of a cell.  Gains, transfers and
forgetting are positive in the direction of their name also where lower values are better, and an improvement is never
clipped.
Means are over tasks of one scale: a matrix holds one audit, never several together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from palimpsest.audit import Scores
from palimpsest.resample import Array, align, blocks, draw_counts, effective, over_seeds
from palimpsest.resample import figures as figures_of
from palimpsest.statistics import Interval, aggregate, expanded_interval

__all__ = [
    "FIGURES",
    "Cells",
    "MatrixFigure",
    "StageMatrix",
    "average_performance",
    "backward_transfer",
    "figures",
    "forgetting_initial",
    "forgetting_max",
    "forgetting_peak",
    "forgotten_per_gained",
    "forward_transfer",
    "forward_transfer_from_start",
    "held_out_change",
    "intervals",
    "matrix_of",
    "overall_performance",
    "performance_when_taught",
    "trajectory",
]

Better = Literal["higher", "lower"]

Cells = Sequence[Sequence[Scores | None]]
"""One run: ``cells[stage][task]``, with None where nothing was measured."""


@dataclass(frozen=True)
class StageMatrix:
    """``values`` [..., S + 1, T]: leading dimensions are many matrices at once, such as resamples.

    An entry is nan where a task was not measured, which is allowed before its own stage only, and always for a task
    that no stage teaches.  ``chance`` [T] is what a model without any skill scores.
    """

    values: Array
    taught: tuple[int | None, ...]
    better: Better
    chance: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better says which direction is an improvement, higher or lower, not {self.better!r}.")
        if self.values.ndim < 2 or self.values.shape[-2] < 2 or self.values.shape[-1] != len(self.taught):
            raise ValueError(
                f"A matrix of shape {self.values.shape} does not fit {len(self.taught)} tasks; give a row for the model"
                " before any stage and one after each stage, with one column for each entry of taught."
            )
        if self.chance is not None and len(self.chance) != len(self.taught):
            raise ValueError(f"There are {len(self.chance)} chance levels for {len(self.taught)} tasks; give one each.")
        if np.isinf(self.values).any() or not all(math.isfinite(c) for c in self.chance or ()):
            raise ValueError("A cell of the matrix is infinite; correct that measurement.")
        for task, stage in enumerate(self.taught):
            if stage is None:
                continue
            if not 0 <= stage <= self.stages:
                raise ValueError(f"Task {task} is taught by stage {stage}, and there are stages 1 to {self.stages}.")
            if np.isnan(self.values[..., stage:, task]).any():
                raise ValueError(f"Task {task} was not measured after each stage from {stage} on; measure it there.")

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[float | None]],
        taught: Sequence[int | None],
        *,
        better: Better,
        chance: Sequence[float] | None = None,
    ) -> StageMatrix:
        """A matrix from rows of numbers, with None for a cell that was not measured."""
        if len({len(row) for row in rows}) != 1:
            raise ValueError("The rows of a matrix have different lengths; write None for a cell not measured.")
        if any(cell is not None and math.isnan(cell) for row in rows for cell in row):
            raise ValueError("A cell of the matrix is not a number; write None for one that was not measured.")
        values = np.array([[math.nan if cell is None else cell for cell in row] for row in rows], dtype=np.float64)
        return cls(values, tuple(taught), better, None if chance is None else tuple(chance))

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return int(self.values.shape[-2]) - 1

    def stage(self, after: int | None) -> int:
        """``after``, or the last stage."""
        stage = self.stages if after is None else after
        if not 0 <= stage <= self.stages:
            raise ValueError(f"There is no stage {stage}; there are 1 to {self.stages}.")
        return stage

    def cell(self, stage: int, task: int) -> Array:
        """a[stage, task], [...]."""
        found: Array = self.values[..., stage, task]
        return found

    def signed(self, stage: int, task: int) -> Array:
        """The same, turned so that more is better."""
        found: Array = np.multiply(self.cell(stage, task), 1.0 if self.better == "higher" else -1.0)
        return found

    def seen(self, stage: int) -> list[tuple[int, int]]:
        """(task, its own stage) of what was taught up to ``stage``."""
        return [(task, own) for task, own in enumerate(self.taught) if own is not None and own <= stage]

    def earlier(self, stage: int) -> list[tuple[int, int]]:
        """(task, its own stage) of what was taught before ``stage``."""
        return [(task, own) for task, own in self.seen(stage) if own < stage]


MatrixFigure = Callable[[StageMatrix], Array | None]
"""What ``intervals`` and ``trajectory`` draw from a matrix: [...], or None where it is undefined."""


def _mean(parts: Sequence[Array]) -> Array | None:
    """The mean over tasks, None without a task or where a cell that it needs was not measured."""
    if not parts:
        return None
    found: Array = np.mean(parts, axis=0)
    return None if bool(np.isnan(found).all()) else found


def overall_performance(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """OP, also called ACC, after the last stage MFN: the mean of a[t, i] over the tasks i taught up to stage t.

    In the audit's own unit and direction.
    """
    stage = matrix.stage(after)
    return _mean([matrix.cell(stage, task) for task, _ in matrix.seen(stage)])


def trajectory(
    matrix: StageMatrix, figure: Callable[[StageMatrix, int], Array | None] = overall_performance
) -> list[Array | None]:
    """A figure after stage 1, 2, …, the last."""
    return [figure(matrix, stage) for stage in range(1, matrix.stages + 1)]


def average_performance(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """MAA, average incremental performance: the mean of OP over the stages up to t that follow a task's teaching."""
    found = [overall_performance(matrix, stage) for stage in range(1, matrix.stage(after) + 1)]
    return _mean([value for value in found if value is not None])


def performance_when_taught(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """MFT: the mean of a[s_i, i], each task right after its own stage s_i."""
    return _mean([matrix.cell(own, task) for task, own in matrix.seen(matrix.stage(after)) if own > 0])


def backward_transfer(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """BWT: the mean gain a[t, i] - a[s_i, i] over the tasks taught before stage t; below 0 where it forgot them."""
    stage = matrix.stage(after)
    return _mean([matrix.signed(stage, task) - matrix.signed(own, task) for task, own in matrix.earlier(stage)])


def forward_transfer(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """FWT: the mean of a[s_i - 1, i] - b_i over the tasks of stages 2 to t, with chance as b_i.

    A language model may score far above chance before any stage; ``forward_transfer_from_start`` takes that off.
    """
    if matrix.chance is None:
        return None
    sign = 1.0 if matrix.better == "higher" else -1.0
    new = [(task, own) for task, own in matrix.seen(matrix.stage(after)) if own > 1]
    return _mean([matrix.signed(own - 1, task) - sign * matrix.chance[task] for task, own in new])


def forward_transfer_from_start(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """FWT with b_i = a[0, i], the model before any stage."""
    new = [(task, own) for task, own in matrix.seen(matrix.stage(after)) if own > 1]
    return _mean([matrix.signed(own - 1, task) - matrix.signed(0, task) for task, own in new])


def forgetting_max(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """F of the survey: the mean of max over the stages l = 1 … t - 1 of a[l, i] - a[t, i], over earlier tasks.

    A stage before the task's own counts too: a language model may have been better before it was taught.
    """
    return _forgetting(matrix, after, lambda own: min(own, 1))


def forgetting_peak(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """Forgetting from the best value since the task's own stage: max over l = s_i … t - 1 of a[l, i] - a[t, i]."""
    return _forgetting(matrix, after, lambda own: own)


def _forgetting(matrix: StageMatrix, after: int | None, first: Callable[[int], int]) -> Array | None:
    stage = matrix.stage(after)
    found = []
    for task, own in matrix.earlier(stage):
        before: Array = np.max([matrix.signed(s, task) for s in range(first(own), stage)], axis=0)
        found.append(before - matrix.signed(stage, task))
    return _mean(found)


def forgetting_initial(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """Forgetting from the value right after the task's own stage: -BWT."""
    transfer = backward_transfer(matrix, after)
    return None if transfer is None else np.negative(transfer)


def held_out_change(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """X-Delta: the mean gain a[t, i] - a[0, i] over the tasks that no stage teaches, such as general ability."""
    stage = matrix.stage(after)
    held_out = [task for task, own in enumerate(matrix.taught) if own is None]
    return _mean([matrix.signed(stage, task) - matrix.signed(0, task) for task in held_out])


def forgotten_per_gained(matrix: StageMatrix, after: int | None = None) -> Array | None:
    """FUAR of stage t: what earlier tasks lost, over what the tasks of stage t (updated or new) gained.

    sum_i max(0, a[s_i, i] - a[t, i]) / sum_i sum_g max(0, a[t, g] - a[s_i, g]), i over earlier and g over new tasks;
    the gain is counted once for each earlier task, from the same model as its loss.  1 is one forgotten for one gained.
    None (nan among several matrices) where nothing was gained.
    """
    stage = matrix.stage(after)
    earlier = matrix.earlier(stage)
    new = [task for task, own in enumerate(matrix.taught) if own == stage]
    if not earlier or not new:
        return None
    lost = [np.maximum(0.0, matrix.signed(own, i) - matrix.signed(stage, i)) for i, own in earlier]
    gained = [np.maximum(0.0, matrix.signed(stage, g) - matrix.signed(own, g)) for _, own in earlier for g in new]
    above, below = np.sum(lost, axis=0), np.sum(gained, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _mean([np.where(below > 0, above / below, math.nan)])


FIGURES: Mapping[str, MatrixFigure] = MappingProxyType(
    {
        figure.__name__: figure
        for figure in (
            overall_performance,
            average_performance,
            performance_when_taught,
            backward_transfer,
            forward_transfer,
            forward_transfer_from_start,
            forgetting_max,
            forgetting_peak,
            forgetting_initial,
            forgotten_per_gained,
            held_out_change,
        )
    }
)
"""Every figure of this file by its name."""


def figures(matrix: StageMatrix) -> dict[str, float | None]:
    """All figures of one matrix after its last stage."""
    found = {name: figure(matrix) for name, figure in FIGURES.items()}
    return {name: None if value is None else float(value) for name, value in found.items()}


def matrix_of(cells: Cells, taught: Sequence[int | None], *, chance: Sequence[float] | None = None) -> StageMatrix:
    """The matrix of one run from the items of every cell."""
    rows = [[None if s is None else aggregate(s.items, s.statistic, s.groups) for s in row] for row in cells]
    return StageMatrix.of(rows, taught, better=_direction([cells]), chance=chance)


def intervals(
    seeds: Sequence[Cells],
    taught: Sequence[int | None],
    wanted: Mapping[str, MatrixFigure] = FIGURES,
    *,
    chance: Sequence[float] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """The figures of one run a seed, averaged over seeds, each with a 95 % bootstrap interval over items and seeds.

    A draw takes the same items of a task in every row, which is what pairs the stages, and the items of different
    tasks apart from each other; the seeds are drawn on top, as in ``statistics``.  None where a figure is undefined.
    """
    better = _direction(seeds)
    columns = [_column(seeds, task) for task in range(len(taught))]
    rng = np.random.default_rng(seed)
    levels = None if chance is None else tuple(chance)
    found: dict[str, list[Array]] = {name: [] for name in wanted}
    for rows in blocks(resamples, max(column.size for column in columns)):
        drawn = np.stack([column.draw(rng, rows) for column in columns], axis=-1)  # [seeds, R, S + 1, T]
        counts = draw_counts(rng, rows, None, len(seeds))
        per_seed = _all(wanted, StageMatrix(drawn, tuple(taught), better, levels))
        for name, value in per_seed.items():
            if value is not None:
                found[name].append(over_seeds(value, counts))
    whole = np.stack([column.whole() for column in columns], axis=-1)[:, 0]  # [seeds, S + 1, T]
    values = _all(wanted, StageMatrix(whole, tuple(taught), better, levels))
    count = min(effective(column.cell) for column in columns)
    return {
        name: expanded_interval(float(value.mean()), np.concatenate(found[name]), count, len(seeds))
        if value is not None and math.isfinite(value.mean())
        else None
        for name, value in values.items()
    }


def _all(wanted: Mapping[str, MatrixFigure], matrix: StageMatrix) -> dict[str, Array | None]:
    return {name: figure(matrix) for name, figure in wanted.items()}


@dataclass(frozen=True)
class _Column:
    """One task: ``items[row][seed]`` with their groups, aligned by id; a row is None where nothing was measured."""

    cell: Scores
    items: Sequence[Sequence[tuple[Array, Array | None]] | None]
    shared: bool

    @property
    def first(self) -> Sequence[tuple[Array, Array | None]]:
        """The items of each seed in a row that was measured."""
        return next(row for row in self.items if row is not None)

    @property
    def size(self) -> int:
        """Items of a seed."""
        return len(self.first[0][0])

    def draw(self, rng: np.random.Generator, resamples: int) -> Array:
        """[seeds, R, S + 1]: seeds that measured the same items share their draw."""
        auc = self.cell.statistic == "auc"
        counts = [
            draw_counts(rng, resamples, groups if auc else None, len(x))
            for x, groups in (self.first[:1] if self.shared else self.first)
        ]
        return self._figures([counts[0 if self.shared else i] for i in range(len(self.first))])

    def whole(self) -> Array:
        """The same from every item once, [seeds, 1, S + 1]."""
        return self._figures([np.ones((1, len(x))) for x, _ in self.first])

    def _figures(self, counts: Sequence[Array]) -> Array:
        found = np.full((len(counts), len(counts[0]), len(self.items)), math.nan)
        measured = [row for row in self.items if row is not None]
        there = [row is not None for row in self.items]
        for seed, own in enumerate(counts):
            x, groups = np.stack([row[seed][0] for row in measured]), measured[0][seed][1]
            found[seed][:, there] = figures_of(x, self.cell.statistic, groups, own).T
        return found


def _column(seeds: Sequence[Cells], task: int) -> _Column:
    """The cells of one task over all rows and seeds, paired by id."""
    rows: list[list[Scores] | None] = []
    for stage in range(len(seeds[0])):
        cells = [run[stage][task] for run in seeds]
        measured = [cell for cell in cells if cell is not None]
        if measured and len(measured) < len(cells):
            raise ValueError(f"Task {task} was measured after stage {stage} with some seeds only; measure all alike.")
        rows.append(measured or None)
    present = [row for row in rows if row is not None]
    if not present:
        raise ValueError(f"Task {task} was never measured; leave it out of the matrix.")
    aligned = iter(align(present))
    items = [None if row is None else next(aligned) for row in rows]
    shared = len({frozenset(scores.ids) for scores in present[0]}) == 1
    return _Column(min(present[0], key=effective), items, shared)


def _direction(seeds: Sequence[Cells]) -> Better:
    """The direction that all cells share; also refuses rows and runs of different shapes."""
    if not seeds or not seeds[0] or len({tuple(len(row) for row in cells) for cells in seeds}) != 1:
        raise ValueError("The runs of a matrix have different stages or tasks; measure all seeds alike.")
    found = {cell.better for cells in seeds for row in cells for cell in row if cell is not None}
    if found == {"higher"}:
        return "higher"
    if found == {"lower"}:
        return "lower"
    raise ValueError(f"The cells of a matrix are better {' or '.join(sorted(found))}; give one audit in one direction.")
