"""Trains a fast LoRA adapter on each task with replay, lets a slow moving average follow it and ties their features on
replayed data together, to reduce forgetting in parameter-efficient tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import Tensor, nn

    from palimpsest.audit import Row, Scores
    from palimpsest.claims._facts import Facts
    from palimpsest.procedures.linear_path import LinePath

PAPER = Paper(
    "Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning",
    "Weijieying Ren et al.",
    2024,
    arxiv="2402.18865",
    venue="ICASSP 2025",
    tags=("retain", "continual-learning", "replay", "adapter", "loss", "language-model"),
    summary=(
        "Trains a fast LoRA adapter on each task with replay, lets a slow moving average follow it and ties their "
        "features on replayed data together, to reduce forgetting in parameter-efficient tuning."
    ),
)
PARTS: tuple[str, ...] = ("objectives.embedding_consistency", "procedures.linear_path")
TASKS, STEPS, RATE, DECAY, GAMMA, BUFFER = 3, 60, 3e-3, 0.98, 1.0, 10
SETTINGS: dict[str, str | int | float | bool] = {
    "tasks": TASKS,
    "steps a task": STEPS,
    "learning rate": RATE,
    "decay": DECAY,
    "gamma": GAMMA,
    "rows replayed of a task": BUFFER,
}


class SlowAdapterForgetsLess(Claim):
    """A LoRA adapter on a tiny decoder learns three tasks of 30 facts in turn, 60 steps each, and replays ten of each.

    Measured is the recall of all rows that are never replayed, after the last task: with plain replay, with its slow
    average (decay 0.98, warm start), and with the slow average of a run that has the consistency term of weight 1.
    Shown when the last is higher by more than 0.03 than plain replay and by more than 0.01 than the slow average alone.
    Partly shown when the first holds.
    """

    says = "The slow adapter of I-LoRA knows more of all tasks in the end than the adapter of plain replay."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Two runs a seed."""
        from palimpsest.claims._evidence import Condition, evidence, figure
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        plain = [_measured(budget, seed, 0.0) for seed in seeds]
        full = [_measured(budget, seed, GAMMA) for seed in seeds]
        fast, slow, both = [r.fast for r in plain], [r.slow for r in plain], [r.slow for r in full]
        conditions = [
            Condition("recall with I-LoRA minus plain replay", paired_bootstrap_over_seeds(fast, both), "above", 0.03),
            Condition("the same minus its slow average", paired_bootstrap_over_seeds(slow, both), "above", 0.01),
        ]
        arms = {"plain replay": fast, "its slow average": slow, "I-LoRA": both, "I-LoRA, fast": [r.fast for r in full]}
        figures = [figure(f"recall, {arm}", bootstrap_over_seeds(scores)) for arm, scores in arms.items()]
        return evidence(conditions, figures, SETTINGS, needed=1)


class MinimaAreConnected(Claim):
    """The line between the adapters of plain replay after one task and after the next, on the rows of all tasks so far.

    The loss is that of the rows which are never replayed, in nats a row; the runs are those of the claim before. Shown
    when, over both lines and all seeds, the barrier is below 0.2 nats and the best of the nine inner points lies more
    than 0.2 nats below the better end.
    """

    says = "Between the adapters after two tasks there is no barrier, and an inner point is better than both ends."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The same runs."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds

        paths = [_measured(budget, seed, 0.0).paths for seed in seeds]
        barriers = [max(path.barrier for path in own) for own in paths]
        gains = [min(min(path.losses[0], path.losses[-1]) - min(path.losses[1:-1]) for path in own) for own in paths]
        conditions = [
            Condition("the higher barrier of both lines", over_seeds(barriers), "below", 0.2, "nats"),
            Condition("the smaller gain at an inner point of both lines", over_seeds(gains), "above", 0.2, "nats"),
        ]
        figures = []
        for line in range(TASKS - 1):
            own = [each[line] for each in paths]
            for what, place in (("start", 0), ("end", -1)):
                losses = over_seeds([path.losses[place] for path in own])
                figures.append(figure(f"loss at the {what} of line {line + 1}", losses, "nats"))
            lowest = over_seeds([min(path.losses) for path in own])
            figures.append(figure(f"lowest loss of line {line + 1}", lowest, "nats"))
            figures.append(figure(f"best place of line {line + 1}", over_seeds([path.best for path in own])))
        return evidence(conditions, figures, SETTINGS, needed=2)


@dataclass(frozen=True)
class _Run:
    """Recall of the fast and of the slow adapter after the last task, and the lines between the fast ones."""

    fast: Scores
    slow: Scores
    paths: list[LinePath]


_RUNS: dict[tuple[Budget, int, float], _Run] = {}
"""What was measured, for both claims."""


def _measured(budget: Budget, seed: int, gamma: float) -> _Run:
    from palimpsest.claims._facts import device_of, learned
    from palimpsest.claims._tasks import WORLDS

    if (budget, seed, gamma) not in _RUNS:
        _RUNS[budget, seed, gamma] = _run(learned(WORLDS[budget], seed, device_of(budget)), seed, gamma)
    return _RUNS[budget, seed, gamma]


def _run(facts: Facts, seed: int, gamma: float) -> _Run:
    from palimpsest.claims._facts import recall
    from palimpsest.claims._tasks import adapted, nats, task, taught
    from palimpsest.loop import Training
    from palimpsest.objective import Total, on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.embedding_consistency import EmbeddingConsistency
    from palimpsest.procedures.linear_path import linear_path, trained_weights
    from palimpsest.reference import SlowAverage

    def rows(tasks: int, replayed: bool) -> list[Row]:
        part = slice(0, BUFFER) if replayed else slice(BUFFER, None)
        return [row for number in range(tasks) for row in task(facts.world, number)[part]]

    model = adapted(facts.model, seed)
    slow = SlowAverage(model, DECAY, warm=True)
    ends: list[dict[str, Tensor]] = []
    paths: list[LinePath] = []

    def after(number: int) -> None:
        def loss(model: nn.Module) -> float:
            return float(nats(facts.adapter, model, rows(number + 1, replayed=False)).items.mean())

        ends.append(trained_weights(model))
        if number and not gamma:
            paths.append(linear_path(model, ends[-2], ends[-1], loss))

    first = Total((on("task", CrossEntropy()),))
    later = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
    later = later + gamma * on("replay", EmbeddingConsistency()) if gamma else later
    training = Training(steps=STEPS, batch=min(30, facts.world.strangers), lr=RATE)
    replayed = [rows(number, replayed=True) for number in range(TASKS)]
    objectives = [first, *[later] * (TASKS - 1)]
    taught(facts, model, objectives, replayed, training, seed, reference=slow, after=after)
    unseen = rows(TASKS, replayed=False)
    return _Run(recall(facts.adapter, model, unseen), recall(facts.adapter, slow.module, unseen), paths)
