"""Whether at least one of N sampled answers is right; the mean over items is called coverage.

    sampled:  item = 1 - C(m - c, N) / C(m, N),    c right among m samples
    exact:    item = 1 - (1 - p(y | x))^N

The sampled form has no bias for any m of at least N, and the more samples, the less noise.  The exact form is for rows
with a single right answer, their completion, whose probability is asked for.

Paper: Evaluating Large Language Models Trained on Code (Chen et al., 2021), arXiv 2107.03374, equation 1; Rethinking
    Fine-Tuning when Scaling Test-Time Compute (Chen et al., 2025), arXiv 2502.07154.
Code: openai/human-eval (estimate_pass_at_k).
Tags: audit, learn, reasoning, language-model.
Needs: the columns prompt and answer; a subject that samples. Exact: the columns that the model is trained on, only.
Differs: the estimator is worked out in whole numbers. ``checker`` takes the place of the comparison with the answer.
See: ``exact_match`` (one greedy answer), ``confidence_limited`` (trains for this figure), ``probability``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids
from palimpsest.audits.exact_match import matches_answer
from palimpsest.objectives.confidence_limited import log_coverage
from palimpsest.roles import seeded

__all__ = ["METHOD", "PassAtN", "pass_at_n"]


def pass_at_n(samples: int, correct: int, n: int) -> float:
    """Without bias, the chance that ``n`` samples hold a right one, from ``correct`` right ones among ``samples``."""
    if not 0 <= correct <= samples:
        raise ValueError(f"{correct} right answers among {samples} samples cannot be; count them again.")
    if not 1 <= n <= samples:
        raise ValueError(
            f"pass@{n} needs at least {max(n, 1)} samples and n from 1, but there are {samples}; draw more."
        )
    return 1 - math.comb(samples - correct, n) / math.comb(samples, n)


@dataclass(frozen=True)
class PassAtN:
    """``n`` answers are allowed; ``samples`` are drawn (None: n), each of at most ``max_new_tokens``.

    ``how="exact"`` draws none.  ``checker(output, row)`` says whether an output is right; without one, the row's answer
    is compared as ``mode`` says.  The same ``seed`` draws the same answers.
    """

    n: int = 8
    samples: int | None = None
    how: Literal["sampled", "exact"] = "sampled"
    mode: Literal["contains", "equals"] = "contains"
    temperature: float = 1.0
    max_new_tokens: int = 32
    seed: int = 0
    checker: Callable[[str, Row], bool] | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or (self.samples is not None and self.samples < self.n):
            raise ValueError(f"pass@{self.n} needs n from 1 and at least n samples, not {self.samples}; draw more.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}; greedy answers are exact_match.")

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """A value in [0, 1] per row."""
        rows = role_rows(data, role, "pass_at_n")
        if self.how == "exact":
            logp = torch.stack([row.double().sum() for row in subject.logp(rows)])  # [N]
            items = log_coverage(logp, self.n).exp()
            return Scores("pass_at_n", items, row_ids(rows, role), role=role, bounds=SHARE)
        column(rows, "prompt", role, "pass_at_n")
        if self.checker is None:
            column(rows, "answer", role, "pass_at_n")
        ids, count = row_ids(rows, role), self.samples or self.n
        seeds = [seeded(self.seed, row_id) for row_id in ids]
        drawn = subject.sample(rows, self.max_new_tokens, count=count, seeds=seeds, temperature=self.temperature)
        right = [[self._right(text, row) for text in texts] for texts, row in zip(drawn, rows, strict=True)]
        items = torch.tensor([pass_at_n(count, sum(found), self.n) for found in right], dtype=torch.float64)
        shown = tuple(texts[found.index(True)] if any(found) else texts[0] for texts, found in zip(drawn, right))
        return Scores("pass_at_n", items, ids, role=role, outputs=shown, bounds=SHARE)

    def _right(self, output: str, row: Row) -> bool:
        if self.checker is not None:
            return self.checker(output, row)
        return matches_answer(output, str(row["answer"]), self.mode)


METHOD = PassAtN
