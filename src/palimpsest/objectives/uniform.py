"""Makes a model know nothing: every next token equally likely.

    L_i = (1 / n_i) sum_t KL(U || p_t),    KL(U || p) = -ln V - (1 / V) sum_v ln p_v

U is uniform over the V tokens (or classes), and n_i counts the positions of row i.  ULD trains its assistant so on
what the target should keep, beside ``cross_entropy`` on what it should forget: the assistant's logits then take
nothing away from the target where they are flat.

Paper: Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference (Ji et al.,
    2024), arXiv 2406.08607 (the retain loss of the assistant; the released weight is 5).
Code: UCSB-NLP-Chang/ULD (UniformLossFunc).
Tags: retain, unlearning, loss, language-model, classifier.
Needs: nothing; it looks at the logits.
Differs: the released code averages over every position of the batch, padding and the position after the end included,
    and takes softmax().log(), which is infinite for large logits. Here padding never counts, and rows weigh equally:
    the mean is taken over a row's own positions, then over rows (unit sequence), because attended positions are no
    unit of the adapters. For rows of one length both agree. ``positions="scored"`` counts only the answer's tokens.
See: ``cross_entropy`` (the assistant's other term), ``kl_to_reference`` (towards a reference instead of nothing).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives.inverted_hinge import logits_at
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "Uniform", "divergence_from_uniform"]


def divergence_from_uniform(logits: Tensor) -> Tensor:
    """KL(U || softmax(logits)) in nats, [..., V] -> [...], at least 0; the gradient on the logits is p - 1 / V."""
    return logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])


@dataclass(frozen=True)
class Uniform(Objective):
    """``positions`` attended are all that predict text, the prompt's too; scored are those of the answer."""

    positions: Literal["attended", "scored"] = "attended"

    unit: ClassVar[Unit] = "sequence"

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per row."""
        if isinstance(view, LabelView):
            return divergence_from_uniform(view.log_probs)
        counted = view.attended if self.positions == "attended" else view.mask  # [B, T-1]
        losses = divergence_from_uniform(logits_at(view, counted))  # [N]
        return losses.new_zeros(counted.shape).masked_scatter(counted, losses).sum(1) / counted.sum(1)


METHOD = Uniform
