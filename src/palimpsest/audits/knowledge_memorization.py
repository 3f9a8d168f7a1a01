r"""Whether the model still answers questions about a text: overlap of its short answer with the right one.

    KnowMem = mean over questions of ROUGE-L F1( greedy answer to q, answer )

With ``few_shot`` examples the question is put as in the paper, and the output is cut where the model begins a next one:

    Question: {example question}\nAnswer: {example answer}\n\n ... Question: {q}\nAnswer:

Paper: MUSE: Machine Unlearning Six-Way Evaluation for Language Models (Shi et al., 2024), arXiv 2407.06460.
Code: jaechan-repo/muse_bench (knowmem/get_rouge_qa.py).
Tags: audit, forget, retain, unlearning, language-model.
Needs: the columns prompt and the one named by ``gold``; a subject that generates.
Differs: without examples the row's prompt is asked as it was trained on. The few-shot prompt ends with "Answer:",
    the space after it being the answer's own. White space at the start of an output is dropped before the cut.
    The paper says ROUGE, its code averages F1; ``measure`` chooses.
See: ``rouge`` (TOFU's form), ``exact_match``, ``verbatim_memorization``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids
from palimpsest.audits.rouge import rouge_items

__all__ = ["METHOD", "STOP", "KnowledgeMemorization", "cut", "few_shot_prompt"]

STOP = ("\n\n", "\nQuestion", "Question:")
"""Where MUSE takes an answer to have ended."""


def cut(text: str, stop: Sequence[str] = STOP) -> str:
    """``text`` before the earliest of the ``stop`` strings."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


def few_shot_prompt(question: str, examples: Sequence[tuple[str, str]]) -> str:
    """A question after examples of (question, answer), as MUSE writes it."""
    shown = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in examples)
    return f"{shown}Question: {question}\nAnswer:"


@dataclass(frozen=True)
class KnowledgeMemorization:
    """``gold`` is the column with the right answer; ``few_shot`` holds pairs of question and answer."""

    measure: Literal["f1", "recall"] = "f1"
    gold: Literal["completion", "answer"] = "completion"
    few_shot: tuple[tuple[str, str], ...] = ()
    max_new_tokens: int = 32

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value in [0, 1] per row."""
        name = "knowledge_memorization"
        rows = role_rows(data, role, name)
        questions = column(rows, "prompt", role, name)
        gold = column(rows, self.gold, role, name)
        asked: Sequence[Row] = rows
        if self.few_shot:
            asked = [{"text_prefix": few_shot_prompt(str(q), self.few_shot)} for q in questions]
        outputs = [cut(text) for text in subject.generate(asked, self.max_new_tokens)]
        items = rouge_items([str(g) for g in gold], outputs, self.measure)
        return Scores(name, items, row_ids(rows, role), role=role, outputs=tuple(outputs), bounds=SHARE)


METHOD = KnowledgeMemorization
