"""How fast forgotten material comes back: a copy of the model is trained on it for a few steps and measured again.

    theta' = theta after ``steps`` steps of cross-entropy on the forget rows,   item = inner audit of theta'

A model that hid what it knew recovers it in a few steps; one that lost it learns no faster than a model that never saw
it.  Hold the figure against the retrained run's, which learns the same rows in the same steps for the first time.

Paper: Eight Methods to Evaluate Robust Unlearning in LLMs (Lynch et al., 2024), arXiv 2402.16835.
Code: none.
Tags: audit, forget, unlearning, recall, language-model, classifier.
Needs: a subject that shows its model and adapter; rows the model can be trained on.
Differs: nothing known about other steps or rates; the items and their rows are the inner audit's.
See: ``knowledge_memorization`` (the inner audit by default).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from palimpsest.audit import Audit, Rehearsal, Row, Scores, Subject, Telling, Trainable, role_rows
from palimpsest.loop import Training, fit
from palimpsest.names import UnknownName, build
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.sharded_subject import Sharded

__all__ = ["METHOD", "Relearning", "relearned"]


def relearned(subject: Subject, rows: Sequence[Row], role: str, training: Training, seed: int = 0) -> Subject:
    """A subject around a trained copy of the model; the model itself and the global random state stay as they are.

    A subject that only rehearses looks at the rows, and is returned.
    """
    if isinstance(subject, Rehearsal):
        subject.check_rows(rows)
        return subject
    inner = subject.subject if isinstance(subject, Sharded) else subject
    if not isinstance(inner, Trainable):
        raise ValueError(
            f"relearning trains a copy of the model, which {type(inner).__name__} does not show; "
            "audit a model through its adapter's subject()."
        )
    model = copy.deepcopy(inner.model)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        fit(model, Roles(inner.adapter, {role: rows}), on(role, CrossEntropy()), training, seed=seed)
    again = inner.adapter.subject(model)
    if isinstance(inner, Telling) and isinstance(again, Telling):
        again.told = inner.told
    return Sharded(again) if isinstance(subject, Sharded) else again


@dataclass(frozen=True)
class Relearning:
    """``steps`` of AdamW with ``batch`` rows at the rate ``lr``, then ``audit``, named as in a recipe."""

    audit: str | dict[str, Any] = "knowledge_memorization"
    steps: int = 5
    batch: int = 8
    lr: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        Training(steps=self.steps, batch=self.batch, lr=self.lr)
        if self.audit == "relearning" or (isinstance(self.audit, dict) and "relearning" in self.audit):
            raise ValueError("relearning cannot measure itself; name another audit.")
        self._inner()  # an audit that nobody knows must not be found out after hours of training

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """The inner audit's items after relearning."""
        rows = role_rows(data, role, "relearning")
        audit = self._inner()
        training = Training(steps=self.steps, batch=self.batch, lr=self.lr)
        scores = audit(relearned(subject, rows, role, training, self.seed), data, role)
        return dataclasses.replace(scores, name="relearning")

    def _inner(self) -> Audit:
        try:
            audit: Audit = build(self.audit, "audits", place="audit")
        except UnknownName as error:
            raise ValueError(str(error)) from None
        return audit


METHOD = Relearning
