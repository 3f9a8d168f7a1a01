"""Guesses whether a text was trained on from its least expected tokens: a text never seen has some real surprises.

    Min-K(x) = mean of the max(1, floor(K T)) lowest log p(x_t | x_<t)
    AUC = P( Min-K of a member > Min-K of a non-member )

Paper: Detecting Pretraining Data from Large Language Models (Shi et al., 2024), arXiv 2310.16789, equation 1.
Code: jaechan-repo/muse_bench (privleak/get_ppl_utils.py), locuslab/open-unlearning (mia_min_k).
Tags: audit, forget, unlearning, language-model.
Needs: a holdout role that no training saw and that is drawn from the same source as the members.
Differs: at least one token counts, where the released code gives nan for texts shorter than 1 / K. The value is the
    mean itself; the release stores minus the mean.
See: ``privacy_leakage`` (held against a retrained model), ``loss_attack``, ``zlib_attack``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from palimpsest.audit import Row, Scores, Subject
from palimpsest.audits.loss_attack import membership_scores

__all__ = ["METHOD", "MinK", "check_percent", "min_k"]


def min_k(logp: Tensor, percent: float) -> float:
    """Mean of the lowest ``percent`` % of log-probabilities in nats, [T] -> value at most 0."""
    count = max(1, math.floor(percent * len(logp) / 100))
    return float(logp.double().sort().values[:count].mean())


def check_percent(percent: float) -> None:
    """Refuses a share outside (0, 100]."""
    if not 0 < percent <= 100:
        raise ValueError(f"percent must lie above 0 and at most at 100, not {percent}.")


@dataclass(frozen=True)
class MinK:
    """``percent`` is K in (0, 100]; ``holdout`` names the role that no training saw."""

    percent: float = 20.0
    holdout: str = "holdout"

    def __post_init__(self) -> None:
        check_percent(self.percent)

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """The Min-K value of every member and non-member."""
        return membership_scores("min_k", lambda _, logp: min_k(logp, self.percent), subject, data, role, self.holdout)


METHOD = MinK
