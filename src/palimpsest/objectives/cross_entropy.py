"""Ordinary training: the negative log-probability of what should be said.

    L_i = -log p(y_i | context)

Paper: none; maximum likelihood.
Code: ``torch.nn.functional.cross_entropy``.
Tags: learn, loss, language-model, classifier.
Needs: nothing.
Differs: nothing known. One value per scored token (per example for a classifier); the mean over tokens is taken once,
    over the whole accumulation window and all processes, not per micro-batch.
See: ``gradient_ascent`` (its negative), ``kl_to_reference`` (soft targets).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "CrossEntropy", "cross_entropy"]


def cross_entropy(logp: Tensor) -> Tensor:
    """``logp`` of the targets in nats, any shape -> losses of that shape, at least 0."""
    return -logp


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Token-level cross-entropy for language models, example-level for classifiers."""

    unit: ClassVar[Unit] = "token"
    even: ClassVar[bool] = True

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1] for tokens, [B] for labels."""
        return cross_entropy(view.logp)


METHOD = CrossEntropy
