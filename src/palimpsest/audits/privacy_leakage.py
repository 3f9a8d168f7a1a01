"""Whether an unlearned model still gives away what was in the forget set, measured against a retrained model.

    AUC = P( Min-40% of a holdout text > Min-40% of a forget text ),   ties 1/2
    PrivLeak = 100 (AUC - AUC_retrained) / AUC_retrained

About -100: the forget texts are still recognized (under-unlearned).  0: as if never seen.  Well above 0: they look
less likely than texts never seen (over-unlearned), which gives them away as well.

Paper: MUSE: Machine Unlearning Six-Way Evaluation for Language Models (Shi et al., 2024), arXiv 2407.06460.
Code: jaechan-repo/muse_bench (privleak/), locuslab/open-unlearning (privleak).
Tags: audit, forget, unlearning, language-model.
Needs: a holdout role that no training saw, from the same source as the forget set; a retrained run for PrivLeak.
Differs: the audit gives the AUC and the report the relative difference, with an interval, once a run named retrained
    exists; it never falls back to 1/2. open-unlearning adds 1e-10 to the denominator. Min-K of texts under three tokens
    is defined here (see ``min_k``).
See: ``min_k`` (the score, and the attack's AUC the other way round), ``truth_ratio``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palimpsest.audit import Row, Scores, Subject
from palimpsest.audits.loss_attack import membership_scores
from palimpsest.audits.min_k import check_percent, min_k

__all__ = ["METHOD", "PrivacyLeakage"]


@dataclass(frozen=True)
class PrivacyLeakage:
    """``percent`` is K of Min-K in (0, 100]; ``holdout`` names the role that no training saw."""

    percent: float = 40.0
    holdout: str = "holdout"

    def __post_init__(self) -> None:
        check_percent(self.percent)

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """The Min-K value of every forget text (group 0) and holdout text (group 1)."""
        return membership_scores(
            "privacy_leakage",
            lambda _, logp: min_k(logp, self.percent),
            subject,
            data,
            role,
            self.holdout,
            members=0,
            versus="relative",
        )


METHOD = PrivacyLeakage
