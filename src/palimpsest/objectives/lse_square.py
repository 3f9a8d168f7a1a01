"""Keeps a softmax's denominator near 1, so that logits do not drift: the penalty that large models are trained with.

    L_t = (log sum_v exp o_tv)^2

A softmax does not change when all logits of a position move together, so nothing else holds them; in half precision
their drift costs digits and ends in divergence.  The usual weight is 1e-4, beside ``cross_entropy``.

Paper: Small-scale proxies for large-scale Transformer training instabilities (Wortsman et al., 2023), arXiv 2309.14322,
    section 3.1.2; before it PaLM (Chowdhery et al., 2022), arXiv 2204.02311, section 5.
Code: apple/ml-cross-entropy (return_lse), where the caller squares it.
Tags: learn, loss, training-dynamics, language-model, classifier.
Needs: nothing; it shares the log-probabilities of ``cross_entropy`` on the same role.
Differs: log sum exp is the target's logit minus its log-probability, so the [B, T, V] logits are never made where the
    model's head is apart; positions without a target are not penalized (there neither).
See: ``cross_entropy``; ``spherical_z``, an unrelated loss with a similar name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "LSESquare", "log_sum_exp"]


def log_sum_exp(view: TokenView | LabelView) -> Tensor:
    """Log of the softmax's denominator: [B, T-1], 0 where not scored; [B] for a classifier."""
    if isinstance(view, LabelView):
        return view.logits.logsumexp(-1)
    out, counted = view.outputs, view.mask
    if out.hidden is None or out.head is None:
        return torch.where(counted, view.logits[:, :-1].logsumexp(-1), 0.0)
    head, targets, logp = out.head, view.targets[counted], view.logp
    hidden, weight = out.hidden[:, :-1][counted].to(logp.dtype), head.weight[targets].to(logp.dtype)  # [N, D]
    target = (hidden * weight).sum(1) * head.scale  # [N]
    if head.bias is not None:
        target = target + head.bias[targets]
    if head.softcap is not None:
        target = head.softcap * torch.tanh(target / head.softcap)
    return torch.zeros_like(logp).masked_scatter(counted, target - logp[counted])


@dataclass(frozen=True)
class LSESquare(Objective):
    """No settings: how much it counts is the term's weight."""

    unit: ClassVar[Unit] = "token"

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1], or [B] for a classifier."""
        return log_sum_exp(view).square()


METHOD = LSESquare
