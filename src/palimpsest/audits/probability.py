"""How likely the right answer is, per token, or against wrong ones.

    p(a | q)^(1/|a|) = exp( mean over the answer's tokens of log p )
    relative:  p_right / (p_right + sum over wrong answers of p_wrong)

The relative form is TOFU's for questions about the real world, where a model chooses among given answers.

Paper: TOFU: A Task of Fictitious Unlearning for LLMs (Maini et al., 2024), arXiv 2401.06121.
Code: locuslab/tofu (evaluate_util.py), locuslab/open-unlearning (probability, probability_w_options).
Tags: audit, forget, retain, unlearning, language-model, classifier.
Needs: a subject with log-probabilities; with ``relative`` the columns prompt, completion, perturbed_completions.
Differs: nothing known. For a classifier an answer is one label.
See: ``truth_ratio``, ``model_utility``, ``perplexity`` (the same mean on another scale).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.audit import SHARE, Row, Scores, Subject, answer_column, as_text, column, role_rows, row_ids

__all__ = ["METHOD", "Probability", "answer_logp", "relative_probability"]


def relative_probability(right: Tensor, wrong: Tensor) -> Tensor:
    """Share of the right answer: mean log-probabilities [...] and [..., W] -> [...] in [0, 1]."""
    p, q = right.exp(), wrong.exp().sum(-1)
    return p / (p + q)


def answer_logp(subject: Subject, rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> list[Tensor]:
    """Mean log-probability per token of several answers to each row's prompt, float64 [W_i], asked in one call."""
    pairs = [(row["prompt"], answer) for row, own in zip(rows, answers, strict=True) for answer in own]
    asked = [{"prompt": prompt, "completion": as_text(answer)} for prompt, answer in pairs]
    means = torch.stack([logp.double().mean() for logp in subject.logp(asked)])
    return list(torch.split(means, [len(own) for own in answers]))


@dataclass(frozen=True)
class Probability:
    """``relative`` holds the right answer against the row's wrong ones."""

    relative: bool = False

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value in [0, 1] per row."""
        rows = role_rows(data, role, "probability")
        if self.relative:
            column(rows, "prompt", role, "probability")
            right = column(rows, "completion", role, "probability")
            wrong = answer_column(rows, "perturbed_completions", role, "probability")
            found = answer_logp(subject, rows, [[r, *w] for r, w in zip(right, wrong)])
            items = torch.stack([relative_probability(means[0], means[1:]) for means in found])
        else:
            items = torch.stack([logp.double().mean().exp() for logp in subject.logp(rows)])
        return Scores("probability", items, row_ids(rows, role), role=role, bounds=SHARE)


METHOD = Probability
