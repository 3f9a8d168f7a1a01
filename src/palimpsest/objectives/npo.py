"""Bounded unlearning: the losing half of a preference, anchored at the model before unlearning.

    L_i = -(2 / beta) log sigmoid(-beta (log p(y_i | x_i) - log p_ref(y_i | x_i)))

log p(y | x) is the sum over the answer's tokens.  At the start the gradient is that of gradient ascent on the
sequence; its weight W = 2 p^beta / (p^beta + p_ref^beta) then falls towards 0 as a sequence becomes unlikely.

Paper: Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning (Zhang et al., 2024),
    arXiv 2404.05868, equation 3.
Code: licong-lin/negative-preference-optimization (loss types npo, npo_grad_diff, npo_KL).
Tags: forget, unlearning, loss, language-model, classifier.
Needs: ref.
Differs: a row without an answer token is refused when it is encoded; the released code adds (2 / beta) ln 2 for it.
    ``reduction="mean"`` is the token-mean variant found in other releases; with the paper's beta it is almost plain
    gradient ascent, since its weight stays near 1. For a classifier a sequence is one label.
See: ``gradient_ascent`` (its limit for beta to 0), ``preference`` (both halves), ``cross_entropy`` on retain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "NPO", "npo"]


def npo(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    """Equation 3 on log-probabilities of whole sequences in nats, [B] -> [B], at least 0.

    (2 / beta) log 2 where the model equals its reference; 0 in the limit of a forgotten sequence.
    """
    return -2.0 / beta * F.logsigmoid(-beta * (logp - ref_logp))


@dataclass(frozen=True)
class NPO(Objective):
    """``beta`` > 0 is the inverse temperature: small is gradient ascent, large stops early."""

    beta: float = 0.1
    reduction: Literal["sum", "mean"] = "sum"

    unit: ClassVar[Unit] = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"ref"})
    forgets: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, not {self.beta}; the limit of small beta is gradient_ascent.")

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per sequence."""
        if isinstance(view, LabelView):
            return npo(view.logp, view.ref.logp, self.beta)
        logp, ref = view.seq_logp, view.ref.seq_logp  # [B]
        if self.reduction == "mean":
            length = view.mask.sum(1)  # [B]
            logp, ref = logp / length, ref / length
        return npo(logp, ref, self.beta)


METHOD = NPO
