"""Measures old tasks after every training step instead of at task ends, which uncovers a sharp passing loss right
after each switch, for anyone who must know how bad a continual learner gets in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Figure, Paper

if TYPE_CHECKING:
    from palimpsest.claims._rotated_digits import Stream
    from palimpsest.resample import Array

PAPER = Paper(
    "Continual evaluation for lifelong learning: Identifying the stability gap",
    "Matthias De Lange et al.",
    2022,
    arxiv="2205.13452",
    venue="ICLR 2023",
    tags=("retain", "audit", "continual-learning", "benchmark", "training-dynamics", "classifier"),
    summary=(
        "Measures old tasks after every training step instead of at task ends, which uncovers a sharp passing loss "
        "right after each switch, for anyone who must know how bad a continual learner gets in between."
    ),
)
PARTS: tuple[str, ...] = ("curves", "watch")

RATE, FAR, NEAR = 0.1, 80.0, 20.0


class HiddenBetweenTaskEnds(Claim):
    """A perceptron learns 1,300 upright digits and then the same digits turned by 80 degrees, 300 steps each.

    The accuracy on 497 test digits of both kinds is measured after every step, for fine-tuning, replay of 200 digits
    and joint training, one stream a seed.  The gap is how far the upright digits sink during the second stage below
    where it began.  Shown when, for replay and for joint training, it is more than 2 points deeper than what a
    measurement at the end sees (the forgetting); in part when replay's worst-case accuracy does not also exceed
    fine-tuning's by more than 10 points.
    """

    says = "Replay and even joint training lose old tasks sharply after a switch, which task-end measurement hides."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Every figure is measured at every step (rho = 1)."""
        from palimpsest.claims._evidence import Condition, evidence, over_seeds
        from palimpsest.claims._facts import device_of
        from palimpsest.claims._rotated_digits import METHODS, stream
        from palimpsest.curves import forgetting_so_far, worst_case_performance

        device = device_of(budget)
        streams = {method: [stream(method, FAR, RATE, seed, device) for seed in seeds] for method in METHODS}
        conditions = []
        for method in METHODS[1:]:
            hidden = [100 * (s.gap.depth - float(forgetting_so_far(s.curves) or 0.0)) for s in streams[method]]
            name = f"gap of {method} minus its forgetting at the end"
            conditions.append(Condition(name, over_seeds(hidden), "above", 2.0, "points"))
        worst = {m: [100 * float(worst_case_performance(s.curves) or 0.0) for s in own] for m, own in streams.items()}
        better = [a - b for a, b in zip(worst["replay"], worst["fine-tuning"], strict=True)]
        name = "worst-case accuracy of replay minus fine-tuning"
        conditions.append(Condition(name, over_seeds(better), "above", 10.0, "points"))
        figures = [figure for method, own in streams.items() for figure in _figures(method, own)]
        settings = {"degrees": FAR, "learning rate": RATE, "measured every": 1}
        return evidence(conditions, figures, settings, needed=2)


class GrowsWithDissimilarity(Claim):
    """The same with replay, and with 20 in place of 80 degrees beside it.

    Shown when the gap at 80 degrees is deeper than the gap at 20 degrees.
    """

    says = "The less alike the tasks are, the deeper the gap."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The streams at 80 degrees are those of the first claim."""
        from palimpsest.claims._evidence import Condition, evidence, over_seeds
        from palimpsest.claims._facts import device_of
        from palimpsest.claims._rotated_digits import stream

        streams = {
            angle: [stream("replay", angle, RATE, seed, device_of(budget)) for seed in seeds] for angle in (NEAR, FAR)
        }
        deeper = [100 * (far.gap.depth - near.gap.depth) for near, far in zip(streams[NEAR], streams[FAR], strict=True)]
        name = f"gap of replay at {FAR:g} degrees minus at {NEAR:g}"
        conditions = [Condition(name, over_seeds(deeper), "above", 0.0, "points")]
        figures = [f for angle, own in streams.items() for f in _figures(f"replay at {angle:g} degrees", own)]
        return evidence(conditions, figures, {"learning rate": RATE, "measured every": 1})


class StabilityGradientStartsSmall(Claim):
    """The perceptron after the upright digits, before the first step on those turned by 80 degrees.

    Shown when the gradient of the loss on the 200 replayed digits has less than a fifth of the norm of the gradient of
    the loss on the new ones.
    """

    says = "At the switch the gradient that keeps the old task is near zero, so the first steps ignore it."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """One pair of norms a seed."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._facts import device_of
        from palimpsest.claims._rotated_digits import gradient_norms

        norms = [gradient_norms(FAR, RATE, seed, device_of(budget)) for seed in seeds]
        ratio = over_seeds([old / new for old, new in norms])
        figures = [
            figure("norm of the gradient on replayed digits", over_seeds([old for old, _ in norms])),
            figure("norm of the gradient on new digits", over_seeds([new for _, new in norms])),
        ]
        conditions = [Condition("norm of the replayed over that of the new gradient", ratio, "below", 0.2)]
        return evidence(conditions, figures, {"degrees": FAR, "learning rate": RATE})


def _figures(name: str, streams: Sequence[Stream]) -> list[Figure]:
    """Accuracy at the end, forgetting, worst values and windows of one method, over seeds, in points."""
    from palimpsest import curves
    from palimpsest.claims._evidence import figure, over_seeds

    measures: dict[str, Callable[[Stream], Array | float | None]] = {
        "accuracy at the end": lambda s: curves.performance_so_far(s.curves),
        "forgetting at the end": lambda s: curves.forgetting_so_far(s.curves),
        "lowest accuracy on the old task": lambda s: curves.worst_of_earlier(s.curves),
        "worst-case accuracy": lambda s: curves.worst_case_performance(s.curves),
        "depth of the gap": lambda s: s.gap.depth,
        "largest drop in 10 steps": lambda s: curves.windowed_forgetting(s.curves, 10),
        "largest drop in 100 steps": lambda s: curves.windowed_forgetting(s.curves, 100),
    }
    found = []
    for what, measure in measures.items():
        values = [measure(stream) for stream in streams]
        known = [100 * float(value) for value in values if value is not None]
        found.append(figure(f"{what}, {name}", over_seeds(known), "points"))
    return found
