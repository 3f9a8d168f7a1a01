"""Whether a classifier is right when it is told the task: only the task's classes compete.

    item = 1 if argmax_{c in task} p(c | x) = y, else 0

The task's classes are ``classes``, or those that occur in the audited role. Against ``accuracy``, where all classes
compete, it shows what is left of a task that later ones have buried.

Paper: Three scenarios for continual learning (van de Ven and Tolias, 2019), arXiv 1904.07734: task-incremental.
Code: none.
Tags: audit, retain, continual-learning, classifier.
Needs: the column label; a subject that predicts classes.
Differs: nothing known. It is never below ``accuracy`` of the same role.
See: ``accuracy`` (class-incremental).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids

__all__ = ["METHOD", "TaskAccuracy"]


@dataclass(frozen=True)
class TaskAccuracy:
    """``classes`` of the task; none named: those of the role."""

    classes: tuple[int, ...] = ()

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """0 or 1 per row."""
        rows = role_rows(data, role, "task_accuracy")
        labels = torch.tensor([int(label) for label in column(rows, "label", role, "task_accuracy")])
        classes = torch.tensor(self.classes or sorted(set(labels.tolist())))
        strangers = labels[~torch.isin(labels, classes)]
        if len(strangers):
            raise ValueError(
                f"task_accuracy: the role {role!r} has the label {int(strangers[0])}, which classes lacks."
            )
        log_probs = subject.predict(rows)  # [N, C]
        if int(classes.min()) < 0 or int(classes.max()) >= log_probs.shape[1]:
            raise ValueError(
                f"task_accuracy: classes names {classes.tolist()}, but the model tells {log_probs.shape[1]} apart."
            )
        items = (classes[log_probs[:, classes].argmax(-1)] == labels).double()
        return Scores("task_accuracy", items, row_ids(rows, role), role=role, bounds=SHARE)


METHOD = TaskAccuracy
