"""Makes what should be forgotten less likely by climbing its loss, without bound.

    L_i = log p(y_i | context)

The oldest and harshest way to unlearn, kept because every other method is held against it: the loss has no lower
bound, so it must be stopped by hand, and what shares weights with the forget set collapses with it.

Paper: Knowledge Unlearning for Mitigating Privacy Risks in Language Models (Jang et al., 2022), arXiv 2210.01504.
Code: joeljang/knowledge-unlearning.
Tags: forget, unlearning, loss, language-model, classifier.
Needs: nothing.
Differs: nothing known. Unit token, as in the released code (mean over the answer tokens).
See: ``npo`` (the same gradient at the start, then bounded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "GradientAscent", "gradient_ascent"]


def gradient_ascent(logp: Tensor) -> Tensor:
    """``logp`` of the targets in nats, any shape -> losses of that shape, at most 0 and unbounded below."""
    return logp


@dataclass(frozen=True)
class GradientAscent(Objective):
    """Negated cross-entropy."""

    unit: ClassVar[Unit] = "token"
    even: ClassVar[bool] = True
    forgets: ClassVar[int | None] = 0

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1] for tokens, [B] for labels."""
        return gradient_ascent(view.logp)


METHOD = GradientAscent
