"""Guesses whether a text was trained on from its loss: what was seen is said with more confidence.

    score(x) = mean over tokens of log p,   AUC = P( score of a member > score of a non-member )

1/2 means that members cannot be told from texts never seen, 1 that all can be told.  The texts of the audited role are
the members, those of the holdout role the non-members; ties count 1/2.

Paper: Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting (Yeom et al., 2018), arXiv 1709.01604.
Code: locuslab/open-unlearning (mia_loss).
Tags: audit, forget, unlearning, language-model, classifier.
Needs: a holdout role that no training saw and that is drawn from the same source as the members.
Differs: reported as an area under the ROC curve instead of the accuracy at one threshold.
See: ``zlib_attack``, ``min_k`` (other scores), ``privacy_leakage`` (the same, held against a retrained model).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palimpsest.audit import Row, Scores, Subject, Unmeasurable, Versus, role_rows, row_ids

__all__ = ["METHOD", "LossAttack", "membership_scores"]


def membership_scores(
    audit: str,
    score: Callable[[Row, Tensor], float],
    subject: Subject,
    data: Mapping[str, Sequence[Row]],
    role: str,
    holdout: str,
    *,
    members: Literal[0, 1] = 1,
    versus: Versus = "difference",
) -> Scores:
    """Scores of members and non-members for an AUC, with ids ``role:id``.

    ``score(row, logp)`` turns a row and its log-probabilities [T] into a number, high where the text looks familiar.
    ``members`` is the group of the audited role; the AUC is P(group 1 > group 0).
    """
    if role == holdout:
        raise Unmeasurable(f"{audit}: {role!r} cannot be both members and holdout; name another role in holdout.")
    seen, unseen = role_rows(data, role, audit), role_rows(data, holdout, audit)
    rows = [*seen, *unseen]
    values = [score(row, logp) for row, logp in zip(rows, subject.logp(rows), strict=True)]
    ids = [f"{part}:{name}" for part, own in ((role, seen), (holdout, unseen)) for name in row_ids(own, part)]
    groups = torch.tensor([members] * len(seen) + [1 - members] * len(unseen))
    items = torch.tensor(values, dtype=torch.float64)
    return Scores(audit, items, tuple(ids), "nearer:retrained", role, statistic="auc", versus=versus, groups=groups)


@dataclass(frozen=True)
class LossAttack:
    """``holdout`` names the role that no training saw."""

    holdout: str = "holdout"

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """The mean log-probability in nats per token of every member and non-member."""
        return membership_scores(
            "loss_attack", lambda _, logp: float(logp.double().mean()), subject, data, role, self.holdout
        )


METHOD = LossAttack
