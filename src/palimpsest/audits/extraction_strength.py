"""How short a beginning of a text is enough for the model to say all the rest.

    ES = 1 - min { k : greedy continuation of x[:k] is x[k:] } / T

Computed in one pass: the continuation from k is the text itself exactly when, after the true tokens before it, every
token from k on is the most likely one.

Paper: Extracting Training Data from Large Language Models (Carlini et al., 2021), arXiv 2012.07805, for the idea;
    OpenUnlearning (Dorna et al., 2025), arXiv 2506.12618, for the form used here.
Code: locuslab/open-unlearning (extraction_strength).
Tags: audit, forget, unlearning, language-model, classifier.
Needs: a subject that compares its most likely tokens with the text (``matches``).
Differs: a text whose last token the model does not say scores 0 (k = T); the released loop ends at k = T - 1 and
    gives it 1 / T. With a prompt, the T tokens are those of the completion.
See: ``verbatim_memorization`` (partial overlap counts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.audit import SHARE, Row, Scores, Subject, role_rows, row_ids

__all__ = ["METHOD", "ExtractionStrength", "extraction_strength"]


def extraction_strength(matches: Tensor) -> float:
    """Share of the tokens in the longest fully matched ending: bool [T] -> value in [0, 1]."""
    return float(matches.flip(0).long().cumprod(0).sum()) / len(matches)


@dataclass(frozen=True)
class ExtractionStrength:
    """Has no fields: the measure has none."""

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value in [0, 1] per row."""
        rows = role_rows(data, role, "extraction_strength")
        items = torch.tensor([extraction_strength(m) for m in subject.matches(rows)], dtype=torch.float64)
        return Scores("extraction_strength", items, row_ids(rows, role), role=role, bounds=SHARE)


METHOD = ExtractionStrength
