"""Whether the right answer is the most likely of the given ones.

    item = 1 if log p(right | q) > log p(wrong | q) for every wrong answer, else 0; t answers tied for first give 1 / t

``per`` says what is compared: the log-probability of the whole answer, or its mean per token, which does not favor
short answers.  ``wording`` paraphrased asks in other words than those of the prompt, which training may have tied to
one form of answer: measured is then what is known, in whatever form.  Of preferences it is the share of pairs whose
chosen answer is likelier than the rejected one; ``columns: {completion: chosen, perturbed_completions: rejected}``.

Paper: Think you have Solved Question Answering? Try ARC, the AI2 Reasoning Challenge (Clark et al., 2018),
    arXiv 1803.05457, for questions of this kind; log-probabilities as in Brown et al. (2020), arXiv 2005.14165.
Code: EleutherAI/lm-evaluation-harness (multiple_choice: acc, acc_norm).
Tags: audit, retain, learn, language-model.
Needs: a subject with log-probabilities; the columns prompt, completion, perturbed_completions, or, paraphrased,
    paraphrased_prompt, paraphrased_completion, perturbed_paraphrases.
Differs: the harness counts a tie as right when the right answer stands first, and normalizes by characters (acc_norm).
    The end token, where the tokenizer has one, belongs to the answer.
See: ``probability`` with ``relative`` (how much more likely, not whether), ``exact_match`` (what the model says),
    ``preference`` (what trains on such pairs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palimpsest.audit import SHARE, Row, Scores, Subject, answer_column, as_text, column, role_rows, row_ids

__all__ = ["METHOD", "MultipleChoice", "chosen"]

COLUMNS = {
    "given": ("prompt", "completion", "perturbed_completions"),
    "paraphrased": ("paraphrased_prompt", "paraphrased_completion", "perturbed_paraphrases"),
}
"""Wording -> the columns of the question, its answer and wrong answers."""


def chosen(right: Tensor, wrong: Tensor) -> Tensor:
    """The share of a choice that falls on the right answer: log-probabilities scalar and [W] -> scalar in [0, 1]."""
    if bool((wrong > right).any()):
        return torch.zeros((), dtype=torch.float64)
    return 1 / (1 + (wrong == right).sum()).double()


@dataclass(frozen=True)
class MultipleChoice:
    """``per`` answer compares sums of log-probabilities, ``per`` token their means."""

    per: Literal["answer", "token"] = "answer"
    wording: Literal["given", "paraphrased"] = "given"

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """0 or 1 per row, or a share where answers tie."""
        rows = role_rows(data, role, "multiple_choice")
        asked_in, answered, perturbed = COLUMNS[self.wording]
        prompts, right = (column(rows, c, role, "multiple_choice") for c in (asked_in, answered))
        wrong = answer_column(rows, perturbed, role, "multiple_choice")
        asked = [
            {"prompt": prompt, "completion": as_text(answer)}
            for prompt, r, w in zip(prompts, right, wrong, strict=True)
            for answer in (r, *w)
        ]
        found = [logp.double() for logp in subject.logp(asked)]
        scores = torch.stack([logp.sum() if self.per == "answer" else logp.mean() for logp in found])
        own = torch.split(scores, [1 + len(w) for w in wrong])
        items = torch.stack([chosen(s[0], s[1:]) for s in own])
        return Scores("multiple_choice", items, row_ids(rows, role), role=role, bounds=SHARE)


METHOD = MultipleChoice
