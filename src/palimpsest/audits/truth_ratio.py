"""Whether a true statement is still more likely than false ones of the same wording.

    R = ( mean over wrong answers of p_wrong ) / p_paraphrase,   p = p(answer | q)^(1 / tokens)

R is small for a model that knows the fact and near 1 for one that does not.  On the forget set the whole distribution
of R is held against the retrained model's by a Kolmogorov-Smirnov test; its p-value is TOFU's forget quality.

Paper: TOFU: A Task of Fictitious Unlearning for LLMs (Maini et al., 2024), arXiv 2401.06121, equation 1.
Code: locuslab/tofu (evaluate_util.py, utils.py, aggregate_eval_stat.py), locuslab/open-unlearning (truth_ratio).
Tags: audit, forget, retain, unlearning, language-model.
Needs: the columns prompt, paraphrased_completion (or completion) and perturbed_completions.
Differs: the paper's mean is arithmetic, its leaderboard's and open-unlearning's geometric; ``mean`` chooses, geometric
    by default, since published figures use it. Wrong answers are perturbed_paraphrases where every row has them,
    so that a paraphrase is held against its own wording. open-unlearning adds 1e-10 to the denominators.
See: ``probability``, ``model_utility``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palimpsest.audit import NONNEGATIVE, SHARE, Row, Scores, Subject, answer_column, column, role_rows, row_ids
from palimpsest.audits.probability import answer_logp

__all__ = ["METHOD", "Mean", "TruthRatio", "closeness", "truth_ratio", "utility"]

Mean = Literal["geometric", "arithmetic"]


def truth_ratio(right: Tensor, wrong: Tensor, mean: Mean = "geometric") -> Tensor:
    """R from mean log-probabilities per token: [...] and [..., W] -> [...], above 0."""
    if mean == "geometric":
        return (wrong.mean(-1) - right).exp()
    return (wrong.logsumexp(-1) - math.log(wrong.shape[-1]) - right).exp()


def utility(ratio: Tensor) -> Tensor:
    """max(0, 1 - R), in [0, 1): what the truth ratio adds to model utility."""
    return (1 - ratio).clamp_min(0)


def closeness(ratio: Tensor) -> Tensor:
    """min(R, 1 / R), in (0, 1]: 1 where true and false are equally likely."""
    return torch.minimum(ratio, 1 / ratio)


@dataclass(frozen=True)
class TruthRatio:
    """``form``: R itself, ``utility`` max(0, 1 - R) or ``closeness`` min(R, 1/R).

    ``correct`` is the column of the true statement; ``better`` the goal that a report states.
    """

    mean: Mean = "geometric"
    form: Literal["ratio", "utility", "closeness"] = "ratio"
    correct: Literal["paraphrased_completion", "completion"] = "paraphrased_completion"
    better: Literal["nearer:retrained", "higher", "lower"] = "nearer:retrained"

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value per row, above 0 (``ratio``) or in [0, 1]."""
        rows = role_rows(data, role, "truth_ratio")
        column(rows, "prompt", role, "truth_ratio")
        right = column(rows, self.correct, role, "truth_ratio")
        alike = self.correct == "paraphrased_completion" and all("perturbed_paraphrases" in row for row in rows)
        wrong = answer_column(rows, "perturbed_paraphrases" if alike else "perturbed_completions", role, "truth_ratio")
        found = answer_logp(subject, rows, [[r, *w] for r, w in zip(right, wrong)])
        ratio = torch.stack([truth_ratio(means[0], means[1:], self.mean) for means in found])
        items = {"ratio": ratio, "utility": utility(ratio), "closeness": closeness(ratio)}[self.form]
        bounds = NONNEGATIVE if self.form == "ratio" else SHARE
        return Scores("truth_ratio", items, row_ids(rows, role), self.better, role, versus="ks", bounds=bounds)


METHOD = TruthRatio
