"""Whether a classifier's most likely class is the right one.

    item = 1 if argmax_c p(c | x) = y, else 0

Paper: none; the usual measure of a classifier.
Code: none.
Tags: audit, learn, retain, forget, classifier.
Needs: the column label; a subject that predicts classes.
Differs: nothing known. Items are 0 and 1, so two runs are compared by McNemar's test.
See: ``exact_match`` (for text), ``probability``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids

__all__ = ["METHOD", "Accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """Has no fields: the measure has none."""

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """0 or 1 per row."""
        rows = role_rows(data, role, "accuracy")
        labels = torch.tensor([int(label) for label in column(rows, "label", role, "accuracy")])
        items = (subject.predict(rows).argmax(-1) == labels).double()
        return Scores("accuracy", items, row_ids(rows, role), role=role, bounds=SHARE)


METHOD = Accuracy
