"""Unlearns from forget prompts alone, by moving a model from the answer to be forgotten to a template answer.

    L_i = -g(P(x_i, y_template)) + f*(g(P(x_i, y_forget)))

    P(x, y) = (1 / |y|) sum_t p(y_t | x, y_<t)

P is the average probability of an answer's tokens, in [0, 1].  g is the optimal variational function of an
f-divergence and f* its convex conjugate; together they weight the two answers, and no loss can run away:

    total_variation    g = tanh(v) / 2               f*(g) = tanh(v) / 2
    kl                 g = v                         f*(g) = exp(v - 1)
    jensen_shannon     g = ln 2 - ln(1 + exp(-v))    f*(g) = v + ln(1 + exp(-v)) - ln 2
    pearson            g = v                         f*(g) = v^2 / 4 + v
    reverse_kl         g = -exp(-v)                  f*(g) = v - 1
    squared_hellinger  g = 1 - exp(-v)               f*(g) = exp(v) - 1
    neyman             g = 1 - exp(-v)               f*(g) = 2 - 2 exp(-v / 2)
    jeffrey            g = v                         f*(g) ~ v + v^2 / 4 + v^3 / 16

The slope of P through a token fades with the token's probability: choose templates that the model could already say.
Use it on a pair of roles: ``on(("forget", "refusal"), FLAT())``, where refusal answers forget (``Answers``).

Paper: LLM Unlearning via Loss Adjustment with Only Forget Data (Wang et al., 2024), arXiv 2410.11143.
Code: UCSC-REAL/FLAT (loss type cl).
Tags: forget, unlearning, loss, language-model.
Needs: nothing.
Differs: P is averaged per answer over its own tokens, as in the paper; the released code averages over every position
    of the batch, prompt and padding counted as 0, before it applies g, so that its loss depends on padding and on the
    batch split (``legacy_reduction=True`` replicates that). reverse_kl, squared_hellinger and neyman are the
    consistent pairs above; as released, all three push the template answer down, and the first two also push the
    forget answer up. jeffrey keeps the released cubic: its conjugate (a Lambert W function) is cut after the third
    order, which is up to 0.018 too low at v = 1.
See: ``preference`` (the same pair, anchored at a reference), ``npo`` (no template answer).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import TokenView, Unit

__all__ = ["DIVERGENCES", "FLAT", "METHOD", "Divergence", "answer_probability", "flat"]

Divergence = Literal[
    "total_variation", "kl", "jensen_shannon", "pearson", "reverse_kl", "squared_hellinger", "neyman", "jeffrey"
]

_Function = Callable[[Tensor], Tensor]
_LN2 = math.log(2.0)


def _half_tanh(v: Tensor) -> Tensor:
    return torch.tanh(v) / 2


def _identity(v: Tensor) -> Tensor:
    return v


DIVERGENCES: dict[str, tuple[_Function, _Function]] = {
    "total_variation": (_half_tanh, _half_tanh),
    "kl": (_identity, lambda v: torch.exp(v - 1)),
    "jensen_shannon": (lambda v: _LN2 - F.softplus(-v), lambda v: F.softplus(v) - _LN2),
    "pearson": (_identity, lambda v: v.square() / 4 + v),
    "reverse_kl": (lambda v: -torch.exp(-v), lambda v: v - 1),
    "squared_hellinger": (lambda v: -torch.expm1(-v), torch.expm1),
    "neyman": (lambda v: -torch.expm1(-v), lambda v: -2 * torch.expm1(-v / 2)),
    "jeffrey": (_identity, lambda v: v + v.square() / 4 + v.pow(3) / 16),
}
"""Divergence -> (g, v -> f*(g(v))). Both rise with v: the loss pulls the template up and the forget answer down."""


def flat(forget: Tensor, template: Tensor, divergence: Divergence = "total_variation") -> Tensor:
    """Average token probabilities in [0, 1] of the two answers, any one shape -> losses of that shape."""
    activation, conjugate = DIVERGENCES[divergence]
    return conjugate(forget) - activation(template)


def answer_probability(logp: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities in nats and their bool mask, [B, T-1] -> average probability of a row's scored tokens, [B]."""
    return torch.where(mask, logp.exp(), 0.0).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class FLAT(Objective):
    """``divergence`` by name; ``legacy_reduction`` only to replicate the released code."""

    divergence: Divergence = "total_variation"
    legacy_reduction: bool = False

    unit: ClassVar[Unit] = "pair"
    arity: ClassVar[int] = 2
    forgets: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"There is no divergence {self.divergence!r}; there are: {', '.join(DIVERGENCES)}.")

    def __call__(self, view: tuple[TokenView, TokenView], state: nn.Module | None = None) -> Tensor:
        """[B], one value per pair of (forget answer, template answer)."""
        forget, template = view
        if forget.size != template.size:
            raise ValueError(
                f"FLAT pairs every forget answer with a template answer, but there are {forget.size} and "
                f"{template.size}; make the second role with Answers(to=<the first>, …)."
            )
        return flat(self._probability(forget), self._probability(template), self.divergence)

    def _probability(self, view: TokenView) -> Tensor:
        """[B] average token probability; with ``legacy_reduction`` the whole batch's, unscored positions as 0."""
        if self.legacy_reduction:
            return torch.where(view.mask, view.logp.exp(), 0.0).mean().expand(view.size)
        return answer_probability(view.logp, view.mask)


METHOD = FLAT
