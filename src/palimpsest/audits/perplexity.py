"""How surprised the model is by text, in nats per token; the perplexity is exp of it.

    nll(x) = -(1/T) sum_t log p(x_t | x_<t),   perplexity = exp(nll)

Paper: none; the usual measure of a language model.
Code: none.
Tags: audit, learn, retain, language-model, classifier.
Needs: a subject with log-probabilities.
Differs: every text counts the same, whatever its length, so that intervals are over texts; a corpus perplexity weighs
    by tokens. The figure stays in nats, since differences in nats are ratios of perplexities: +0.03 is 3 % more.
See: ``probability`` (exp of minus the same figure, per item).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palimpsest.audit import NONNEGATIVE, Row, Scores, Subject, role_rows, row_ids

__all__ = ["METHOD", "Perplexity"]


@dataclass(frozen=True)
class Perplexity:
    """Has no fields: the measure has none."""

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value per row, at least 0; of a row with a prompt, the completion's."""
        rows = role_rows(data, role, "perplexity")
        items = torch.stack([-logp.double().mean() for logp in subject.logp(rows)])
        return Scores("perplexity", items, row_ids(rows, role), "lower", role, unit="nats/token", bounds=NONNEGATIVE)


METHOD = Perplexity
