"""ROUGE-L between what the model answers and what it should answer.

    LCS = length of the longest common subsequence of the two word lists
    recall = LCS / words of the answer,  precision = LCS / words of the output,  F1 = their harmonic mean

Words are lower-cased runs of a-z and 0-9.  With ``stemmer`` (TOFU), words of more than three letters lose their
endings by Porter's rules, so that "running" and "runs" agree; MUSE compares words as they are.

Paper: TOFU: A Task of Fictitious Unlearning for LLMs (Maini et al., 2024), arXiv 2401.06121;
    ROUGE: A Package for Automatic Evaluation of Summaries (Lin, 2004).
Code: locuslab/tofu (evaluate_util.py, eval_rouge_recall); the package rouge-score.
Tags: audit, forget, retain, unlearning, language-model.
Needs: the columns prompt and completion; a subject that generates.
Differs: an answer is decoded greedily from the prompt exactly as in training. At most ``max_new_tokens`` tokens, where
    TOFU limits prompt and answer together to 200.
See: ``knowledge_memorization`` (MUSE's form, with examples in the prompt), ``verbatim_memorization``, ``exact_match``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids

__all__ = ["METHOD", "Measure", "Rouge", "RougeL", "rouge_items", "rouge_l"]

Measure = Literal["precision", "recall", "f1"]


class RougeL(NamedTuple):
    """ROUGE-L of one pair of texts, each figure in [0, 1]."""

    precision: float
    recall: float
    f1: float


@cache
def _scorer(stemmer: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise ModuleNotFoundError("ROUGE needs the package rouge-score: pip install 'palimpsest[audits]'.") from None
    return RougeScorer(["rougeL"], use_stemmer=stemmer)


def rouge_l(reference: str, output: str, *, stemmer: bool = False) -> RougeL:
    """ROUGE-L of ``output`` against ``reference``; 0 where either has no word."""
    found = _scorer(stemmer).score(reference, output)["rougeL"]
    return RougeL(float(found.precision), float(found.recall), float(found.fmeasure))


def rouge_items(
    references: Sequence[str], outputs: Sequence[str], measure: Measure, *, stemmer: bool = False
) -> Tensor:
    """One figure of ROUGE-L for each pair, float64 [N] in [0, 1]."""
    pairs = [rouge_l(r, o, stemmer=stemmer) for r, o in zip(references, outputs, strict=True)]
    which = RougeL._fields.index(measure)
    return torch.tensor([pair[which] for pair in pairs], dtype=torch.float64)


@dataclass(frozen=True)
class Rouge:
    """``max_new_tokens`` is the length of the longest answer."""

    measure: Measure = "recall"
    stemmer: bool = True
    max_new_tokens: int = 128

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value in [0, 1] per row."""
        rows = role_rows(data, role, "rouge")
        column(rows, "prompt", role, "rouge")
        answers = column(rows, "completion", role, "rouge")
        outputs = subject.generate(rows, self.max_new_tokens)
        items = rouge_items([str(a) for a in answers], outputs, self.measure, stemmer=self.stemmer)
        return Scores("rouge", items, row_ids(rows, role), role=role, outputs=tuple(outputs), bounds=SHARE)


METHOD = Rouge
