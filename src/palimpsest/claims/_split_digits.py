"""Digits class by class: streams of tasks, and the plain methods that others are held against.

Imported when a claim runs, never before.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audit import Audit, Row
from palimpsest.audits.accuracy import Accuracy
from palimpsest.loop import Training, fit
from palimpsest.mask import Mask
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedure import Procedure
from palimpsest.reference import Copy
from palimpsest.roles import Derived, Roles
from palimpsest.selectors.reservoir import Reservoir
from palimpsest.step import States
from palimpsest.zoo.classifiers import digits_cnn
from palimpsest.zoo.digits import digits, of_classes

__all__ = ["ADAPTER", "Learned", "Stream", "learn", "plain_sgd", "score", "split_digits", "tuned_on_buffer"]

ADAPTER = Classifier(10, features="features")
TASK, REPLAY = "task", "replay"


@dataclass(frozen=True)
class Stream:
    """The training rows of each task, and the test rows of each, in the order in which they are learned."""

    train: Sequence[list[Row]]
    test: Sequence[list[Row]]
    seed: int


@dataclass(frozen=True)
class Learned:
    """A model after the stream, the rows that went through it forward and backward, and what its objectives left."""

    model: nn.Module
    rows: int
    states: States


def split_digits(seed: int) -> Stream:
    """Five tasks of two classes, in an order drawn from ``seed``."""
    order = random.Random(f"split digits/{seed}").sample(range(10), 10)
    pairs = [order[i : i + 2] for i in range(0, 10, 2)]
    train, test = ([of_classes(part, classes=pair) for pair in pairs] for part in digits(seed=seed % 2**32))
    return Stream(train, test, seed)


def learn(
    stream: Stream,
    objective: Callable[[int, Sequence[int]], Total | Term],
    training: Training,
    *,
    buffer: int = 0,
    change: Callable[[Row, int], Row] | None = None,
    procedure: Procedure | None = None,
    after_task: Callable[[int, nn.Module], None] | None = None,
) -> Learned:
    """A new model through all tasks.

    ``objective(t, old)`` is that of task ``t``, where ``old`` are the classes before it.  Its roles: ``task``;
    ``replay``, a reservoir of ``buffer`` rows of earlier tasks (with a procedure, of this one too); and ``one`` and
    ``two``, views of the task under ``change``.
    """
    model, rows = digits_cnn(seed=stream.seed % 2**32), 0
    states: States = {}
    old: list[int] = []
    for t, own in enumerate(stream.train):
        past = [row for task in stream.train[: t + (procedure is not None)] for row in task]
        given = {TASK: own, **({REPLAY: past} if past and buffer else {})}
        answers = {} if change is None else {view: Derived(TASK, change) for view in ("one", "two")}
        chosen = {REPLAY: Reservoir(buffer)(past)} if REPLAY in given and procedure is None else {}
        roles = Roles(ADAPTER, given, answers=answers, selections=chosen)
        total = objective(t, old)
        total = Total((total,)) if isinstance(total, Term) else total
        reference = Copy(model) if total.needs("ref") else None
        run = fit if procedure is None else procedure
        result = run(model, roles, total, training, seed=stream.seed, reference=reference, previous=states)
        states, rows = {**states, **result.states}, rows + result.tokens
        old += sorted({int(row["label"]) for row in own} - set(old))
        if after_task is not None:
            after_task(t, model)
    return Learned(model, rows, states)


def plain_sgd(groups: list[dict[str, object]], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Without momentum and decay."""
    return torch.optim.SGD(groups, lr=lr)


def tuned_on_buffer(learned: Learned, stream: Stream, mask: Mask | None, training: Training, buffer: int) -> nn.Module:
    """A copy of the model after some steps on a reservoir of ``buffer`` rows of all tasks, under ``mask``."""
    model = copy.deepcopy(learned.model)
    rows = [row for task in stream.train for row in task]
    roles = Roles(ADAPTER, {REPLAY: rows}, selections={REPLAY: Reservoir(buffer)(rows)})
    fit(model, roles, on(REPLAY, CrossEntropy()), training, seed=stream.seed, mask=mask)
    return model


def score(model: nn.Module, stream: Stream, audit: Audit | None = None) -> float:
    """Mean over tasks of the test accuracy in percent: over all classes, or as ``audit`` measures it."""
    measure, subject = audit or Accuracy(), ADAPTER.subject(model)
    found = [measure(subject, {"test": rows}, "test").items.mean() for rows in stream.test]
    return 100 * float(sum(found)) / len(found)
