"""Guesses whether a text was trained on from its loss, with texts that are easy anyway discounted.

    score(x) = ( mean over tokens of log p ) / bytes of zlib(x),   AUC = P( score of a member > score of a non-member )

Repetitive text has a low loss whether it was seen or not; it also compresses well, and the division sets that right.

Paper: Extracting Training Data from Large Language Models (Carlini et al., 2021), arXiv 2012.07805.
Code: locuslab/open-unlearning (mia_zlib).
Tags: audit, forget, unlearning, language-model.
Needs: rows of text (text, or prompt and completion, or messages); a holdout role that no training saw.
Differs: of a row with a prompt, only the completion is scored, and only it is compressed.
See: ``loss_attack``, ``min_k``, ``privacy_leakage``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from palimpsest.audit import Row, Scores, Subject
from palimpsest.audits.loss_attack import membership_scores

__all__ = ["METHOD", "ZlibAttack", "scored_text", "zlib_score"]


def scored_text(row: Row) -> str:
    """The part of a row whose tokens are scored."""
    if "messages" in row:
        return str(row["messages"][-1]["content"])
    if "prompt" not in row:
        if "text" not in row:
            columns = sorted(map(str, row))
            raise ValueError(f"zlib_attack compresses text, but a row has only {columns}; take loss_attack.")
        return str(row["text"])
    completion = row["completion"]
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def zlib_score(logp: Tensor, text: str) -> float:
    """Mean log-probability [T] per compressed byte, at most 0."""
    return float(logp.double().mean()) / len(zlib.compress(text.encode()))


@dataclass(frozen=True)
class ZlibAttack:
    """``holdout`` names the role that no training saw."""

    holdout: str = "holdout"

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """The score of every member and non-member."""
        return membership_scores(
            "zlib_attack", lambda row, logp: zlib_score(logp, scored_text(row)), subject, data, role, self.holdout
        )


METHOD = ZlibAttack
