"""Whether the model's answer is, or contains, the short right answer.

    item = 1 if the words of ``gold`` stand in the output one after the other, else 0

Words are lower-cased runs of letters and digits, so case, punctuation and spacing do not count.

Paper: SQuAD: 100,000+ Questions for Machine Comprehension of Text (Rajpurkar et al., 2016), arXiv 1606.05250.
Code: none.
Tags: audit, learn, retain, forget, language-model.
Needs: the columns prompt and answer (or the one named by ``gold``); a subject that generates.
Differs: SQuAD also drops articles. ``contains`` is the default, since a model trained on full sentences never answers
    with the bare fact. Items are 0 and 1, so two runs are compared by McNemar's test.
See: ``knowledge_memorization`` (partial credit), ``accuracy`` (classifiers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids

__all__ = ["METHOD", "ExactMatch", "matches_answer"]


def matches_answer(output: str, answer: str, mode: Literal["contains", "equals"] = "contains") -> bool:
    """Whether ``output`` contains (or equals) ``answer`` word by word."""
    said, right = (re.findall(r"\w+", text.lower()) for text in (output, answer))
    if mode == "equals" or not right:
        return said == right
    return any(said[i : i + len(right)] == right for i in range(len(said) - len(right) + 1))


@dataclass(frozen=True)
class ExactMatch:
    """``mode`` is how strict, ``max_new_tokens`` the length of the longest answer, ``gold`` the right one's column.

    With ``equals`` and ``gold`` completion the answer must also have the form that was taught.
    """

    mode: Literal["contains", "equals"] = "contains"
    max_new_tokens: int = 32
    gold: Literal["answer", "completion"] = "answer"

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """0 or 1 per row."""
        rows = role_rows(data, role, "exact_match")
        column(rows, "prompt", role, "exact_match")
        answers = column(rows, self.gold, role, "exact_match")
        outputs = subject.generate(rows, self.max_new_tokens)
        found = [float(matches_answer(o, str(a), self.mode)) for o, a in zip(outputs, answers, strict=True)]
        items = torch.tensor(found, dtype=torch.float64)
        return Scores("exact_match", items, row_ids(rows, role), role=role, outputs=tuple(outputs), bounds=SHARE)


METHOD = ExactMatch
