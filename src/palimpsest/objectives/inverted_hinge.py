"""Hands the probability of an unwanted token to its closest rival, with a loss that lies in [0, 2].

    L_t = 1 + p(y_t) - max_{v != y_t} p(v)

The gradient on the logits is p_y (1 - p_y + p_r) for the token y, -p_r (1 + p_y - p_r) for the rival r and
p_v (p_r - p_y) for any other v: the rest of the vocabulary hardly moves, where gradient ascent raises all of it.

Paper: Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs (Cha et al., 2024), arXiv 2408.06621
    (IHL).
Code: csm9493/efficient-llm-unlearning (multiclass_hinge_loss).
Tags: forget, unlearning, loss, language-model, classifier.
Needs: nothing; it looks at the logits of the scored positions.
Differs: always on probabilities; the released code skips the softmax when every logit of a batch happens to lie in
    [0, 1]. The outer max(0, .) of the paper is left out, because its argument is never below 0.
See: ``gradient_ascent`` (unbounded), ``npo`` (bounded by a reference), ``cross_entropy`` on retain, which it is used
    with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.kernels.linear_log_probability import linear_logits
from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "InvertedHinge", "inverted_hinge", "logits_at"]


def inverted_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [N, V] with V at least 2 and targets [N] -> losses [N] in [0, 2]; 1 where all are equally likely."""
    log_sum = logits.logsumexp(-1)  # [N]
    wanted = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # [N]
    best, token = logits.topk(2, dim=-1)  # [N, 2]
    rival = torch.where(token[:, 0] == targets, best[:, 1], best[:, 0])  # [N]
    return 1 + (wanted - log_sum).exp() - (rival - log_sum).exp()


def logits_at(view: TokenView, positions: Tensor) -> Tensor:
    """[N, V] float32 logits at the N true entries of ``positions`` [B, T-1], in row order; no others are computed."""
    out = view.outputs
    if out.hidden is None or out.head is None:
        return view.logits[:, :-1][positions]
    head = out.head
    return linear_logits(out.hidden[:, :-1][positions], head.weight, head.bias, softcap=head.softcap, scale=head.scale)


@dataclass(frozen=True)
class InvertedHinge(Objective):
    """No fields: the hinge is bounded by itself."""

    unit: ClassVar[Unit] = "token"
    forgets: ClassVar[int | None] = 0

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1] for tokens, 0 where not scored; [B] for labels."""
        if isinstance(view, LabelView):
            return inverted_hinge(view.log_probs, view.labels)
        losses = inverted_hinge(logits_at(view, view.mask), view.targets[view.mask])  # [N]
        return losses.new_zeros(view.mask.shape).masked_scatter(view.mask, losses)


METHOD = InvertedHinge
