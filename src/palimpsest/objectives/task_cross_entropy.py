"""Trains the outputs of one task alone, so that a classifier of all classes has a head for each task.

    L_i = -log ( exp z_{i y_i} / sum over classes c of the task of exp z_ic )

z are the logits. The rows of the last layer that belong to the task's classes are its head; no other head moves by this
loss. A replayed task is a term of its own, with its own role, so that its rows are scored by their own head:

    on("task2", TaskCrossEntropy()) + on("replay1", TaskCrossEntropy())

Paper: Three scenarios for continual learning (van de Ven and Tolias, 2019), arXiv 1904.07734: task-incremental.
Code: GMvandeVen/continual-learning (active classes of a task).
Tags: retain, continual-learning, loss, classifier.
Needs: nothing; the task's classes are ``classes``, or those that occur in the term's role.
Differs: nothing known. Weight decay still shrinks the heads of other tasks, as it does where each is a layer.
See: ``task_accuracy`` (measures by that head), ``asymmetric_cross_entropy`` (the classes of the batch),
    ``learning_without_forgetting`` (holds the heads of earlier tasks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.roles import Roles
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "Head", "TaskCrossEntropy", "task_cross_entropy"]


def task_cross_entropy(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Logits [B, C], labels [B] among ``classes`` [K], in ascending order -> [B], at least 0."""
    return F.cross_entropy(logits[:, classes], torch.searchsorted(classes, labels), reduction="none")


class Head(nn.Module):
    """The classes [K] of a task, in ascending order."""

    classes: Tensor

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.register_buffer("classes", classes)


@dataclass(frozen=True)
class TaskCrossEntropy(Objective):
    """``classes`` of the task; none named: those of the role, as the stage begins."""

    classes: tuple[int, ...] = ()

    unit: ClassVar[Unit] = "example"

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or any(c < 0 for c in self.classes):
            raise ValueError(f"classes names each class once, by its number, not {self.classes}.")

    def prepare(self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None) -> Head:
        """The task's classes."""
        found = self.classes or {int(example["labels"]) for example in roles[roles.source(role)]}
        return Head(torch.tensor(sorted(found))).to(next(model.parameters()).device)

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B]. Raises ``ValueError`` for a label that is none of the task's, or a class that the model lacks."""
        if not isinstance(state, Head):
            raise ValueError("The task's classes are missing; hand over what `prepare` returned, as fit() does.")
        classes, labels = state.classes, view.labels
        if int(classes[-1]) >= view.logits.shape[1]:
            raise ValueError(f"classes names {int(classes[-1])}, but the model tells {view.logits.shape[1]} apart.")
        strange = labels[~torch.isin(labels, classes)]
        if len(strange):
            raise ValueError(f"The label {int(strange[0])} is none of the task's classes {classes.tolist()}; add it.")
        return task_cross_entropy(view.logits, labels, classes)


METHOD = TaskCrossEntropy
