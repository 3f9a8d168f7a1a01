"""Learns one prototype per class beside a contrastive encoder and preserves how old prototypes relate to new samples,
so that image classifiers can learn task after task without stored data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.claims._split_digits import Learned, Stream
    from palimpsest.loop import Training
    from palimpsest.objective import Term, Total

PAPER = Paper(
    "Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning",
    "Nader Asadi et al.",
    2023,
    arxiv="2303.14771",
    venue="ICML 2023",
    tags=("retain", "continual-learning", "distillation", "loss", "classifier"),
    summary=(
        "Learns one prototype per class beside a contrastive encoder and preserves how old prototypes relate to new "
        "samples, so that image classifiers can learn task after task without stored data."
    ),
)
PARTS: tuple[str, ...] = (
    "objectives.supervised_contrastive",
    "objectives.prototype_relation",
    "audits.task_accuracy",
)

STEPS, ROWS, RATE, PROTOTYPE_RATE, BUFFER = 40, 32, 0.05, 0.1, 200
"""Steps a task, rows a step, rates of plain SGD for the encoder and for prototypes, rows of the replay baseline."""


class KeepsPrototypesUseful(Claim):
    """A small CNN learns digits in five tasks of two classes, from shifted and noisy views, without a stored row.

    PRD with the softmax over a task's prototypes (the released code's) and over samples, and without distillation.  The
    truth beside a prototype is the mean of its class's unit features at the end, over all its training rows.  Shown
    when, over seeds, the cosine of the old prototypes to the truth is more than 0.1 higher with distillation over
    prototypes than without, test accuracy with the task known is more than 2 points higher, and accuracy over all
    classes is more than 10 points above that of fine-tuning; in part when the first two hold.
    """

    says = "Distilling their relations to new samples keeps old prototypes near their classes, without any stored row."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Small enough for a processor in either budget."""
        from palimpsest.audits.task_accuracy import TaskAccuracy
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._split_digits import score, split_digits

        nearness: dict[str, list[float]] = {}
        known: dict[str, list[float]] = {}
        every: dict[str, list[float]] = {}
        for seed in seeds:
            stream = split_digits(seed)
            runs = {
                name: _learned(seed, name) for name in ("over prototypes", "over samples", "without", "fine-tuning")
            }
            for name, learned in runs.items():
                if name != "fine-tuning":
                    nearness.setdefault(name, []).append(_nearness(learned, stream))
                known.setdefault(name, []).append(score(learned.model, stream, TaskAccuracy()))
                every.setdefault(name, []).append(score(learned.model, stream))
        near = _minus(nearness["over prototypes"], nearness["without"])
        told = _minus(known["over prototypes"], known["without"])
        untold = _minus(every["over prototypes"], every["fine-tuning"])
        conditions = [
            Condition("cosine of old prototypes to the truth, with minus without", over_seeds(near), "above", 0.1),
            Condition("accuracy, task known, with minus without", over_seeds(told), "above", 2.0, "points"),
            Condition("accuracy over all classes minus fine-tuning's", over_seeds(untold), "above", 10.0, "points"),
        ]
        figures = [figure(f"cosine to the truth, {name}", over_seeds(values)) for name, values in nearness.items()]
        figures += [figure(f"task known, {name}", over_seeds(values), "points") for name, values in known.items()]
        figures += [figure(f"all classes, {name}", over_seeds(values), "points") for name, values in every.items()]
        return evidence(conditions, figures, _settings(), needed=2)


class AsGoodAsReplayWhenTheTaskIsKnown(Claim):
    """The same stream, test accuracy with the task known: PRD, learning without forgetting, and replay of 200 rows.

    Shown when, over seeds, PRD is less than 2 points below replay, and less than 2 points below learning without
    forgetting; in part when the former holds.  Fine-tuning is reported.
    """

    says = "Where the task is known, PRD without a stored row is about as good as replay with a buffer."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Small enough for a processor in either budget."""
        from palimpsest.audits.task_accuracy import TaskAccuracy
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._split_digits import score, split_digits

        known: dict[str, list[float]] = {}
        for seed in seeds:
            stream = split_digits(seed)
            for name in ("over prototypes", "replay", "without forgetting", "fine-tuning"):
                known.setdefault(name, []).append(score(_learned(seed, name).model, stream, TaskAccuracy()))
        replay, lwf = (_minus(known["over prototypes"], known[name]) for name in ("replay", "without forgetting"))
        conditions = [
            Condition("accuracy of PRD minus replay", over_seeds(replay), "above", -2.0, "points"),
            Condition("the same minus learning without forgetting", over_seeds(lwf), "above", -2.0, "points"),
        ]
        figures = [figure(f"task known, {name}", over_seeds(values), "points") for name, values in known.items()]
        return evidence(conditions, figures, {**_settings(), "buffer of replay": BUFFER})


def _settings() -> dict[str, str | int | float | bool]:
    return {"steps a task": STEPS, "rows a step": ROWS, "rate": RATE, "rate of prototypes": PROTOTYPE_RATE}


def _training() -> Training:
    from palimpsest.claims._split_digits import plain_sgd
    from palimpsest.loop import Training

    return Training(steps=STEPS, batch=ROWS, lr=RATE, optimizer=plain_sgd)


@cache
def _learned(seed: int, name: str) -> Learned:
    """The model after the stream: PRD with its distillation ``over`` an axis or ``without``, or a plain method.

    Both claims ask for some of them. Plain methods see one view of the task.
    """
    from palimpsest.augment import Augment
    from palimpsest.claims._split_digits import learn, split_digits
    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.learning_without_forgetting import LearningWithoutForgetting
    from palimpsest.objectives.prototype_relation import PrototypeRelation
    from palimpsest.objectives.supervised_contrastive import SupervisedContrastive

    relations = {
        "over prototypes": PrototypeRelation(learning_rate=PROTOTYPE_RATE, head="head"),
        "over samples": PrototypeRelation(axis="samples", learning_rate=PROTOTYPE_RATE, head="head"),
        "without": PrototypeRelation(relation=0.0, learning_rate=PROTOTYPE_RATE, head="head"),
    }
    views = ("one", "two")

    def objective(t: int, old: Sequence[int]) -> Term | Total:
        if name in relations:
            return on(views, SupervisedContrastive(width=64, learning_rate=RATE)) + on(views, relations[name])
        own = on("one", CrossEntropy())
        if t and name == "replay":
            return own + on("replay", CrossEntropy())
        if t and name == "without forgetting":
            return own + on("one", LearningWithoutForgetting(tuple(old)))
        return own

    buffer = BUFFER if name == "replay" else 0
    return learn(split_digits(seed), objective, _training(), buffer=buffer, change=Augment(shift=1, noise=0.1))


def _nearness(learned: Learned, stream: Stream) -> float:
    """Mean cosine of the prototypes of all tasks but the last to the means of their classes' unit features."""
    import torch.nn.functional as F

    from palimpsest.claims._split_digits import ADAPTER

    states, subject, found = learned.states["prototype_relation"], ADAPTER.subject(learned.model), []
    for task in stream.train[:-1]:
        for label in sorted({row["label"] for row in task}):
            unit = F.normalize(subject.embed([row for row in task if row["label"] == label]), dim=1)
            (prototype,) = states["vectors"][states["classes"] == label]
            found.append(float(F.cosine_similarity(unit.mean(0), prototype, dim=0)))
    return sum(found) / len(found)


def _minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]
