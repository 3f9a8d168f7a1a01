"""Stops teaching an answer once several samples would find it, so that the model keeps its confidence for the rest.

    L_i = -log(1 - (1 - p(y_i | x_i))^N)

p(y | x) is the probability of the whole answer.  L is minus the log of the chance that at least one of N samples is the
answer.  Its gradient is F times that of cross-entropy on the sequence, with F = N (1 - p)^(N-1) p / (1 - (1 - p)^N),
which is 1 for p far below 1 / N and 0 far above it.  N may be any number from 1, which is cross-entropy.

Paper: Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves Mathematical Reasoning
    (Chen et al., 2025), arXiv 2502.07154.
Code: none found.
Tags: learn, loss, reasoning, language-model, classifier.
Needs: nothing. Step by step, as for proofs, each step is a row of its own, and N about the number of branches.
Differs: examples whose F is almost 0 stay in the batch and its divisor; the paper draws others in their place. The
    approximation for chains of thought, which samples answers to estimate p, is not here. A label of a classifier is an
    answer of one token. The gradient is written down, so it cannot be differentiated once more.
See: ``pass_at_n`` (the measurement), ``cross_entropy`` (N = 1, but the mean over tokens).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "DirectCoverageOptimization", "coverage_factor", "coverage_loss", "log_coverage"]

_RARE = -20.0
"""Below this log of N p, coverage is N p to within a part in a billion."""


def _log1mexp(value: Tensor) -> Tensor:
    """log(1 - e^value) for values up to 0."""
    return torch.where(value > -math.log(2), torch.log(-torch.expm1(value)), torch.log1p(-torch.exp(value)))


def log_coverage(logp: Tensor, samples: float) -> Tensor:
    """log(1 - (1 - p)^N) from log p of whole answers, any shape, in float64, without a gradient."""
    logp = logp.detach().double().clamp_max(0.0)  # rounding may leave a sum of log-probabilities above 0
    found = _log1mexp(samples * _log1mexp(logp))
    few = logp + math.log(samples)
    return torch.where(few < _RARE, few, found)


def coverage_factor(logp: Tensor, samples: float) -> Tensor:
    """F, in [0, 1], from log p of whole answers, in float64, without a gradient."""
    if samples == 1:
        return torch.ones_like(logp, dtype=torch.float64)
    logp = logp.detach().double().clamp_max(0.0)
    log_factor = math.log(samples) + (samples - 1) * _log1mexp(logp) + logp - log_coverage(logp, samples)
    return log_factor.exp().clamp_max(1.0)


def coverage_loss(logp: Tensor, samples: float) -> Tensor:
    """The equation on log-probabilities of whole answers in nats, [B] -> [B], at least 0.

    Differentiating the equation itself gives 0 times infinity for p = 1, so value and gradient are put together here.
    """
    value, factor = -log_coverage(logp, samples), coverage_factor(logp, samples)
    return value.to(logp) + factor.to(logp) * (logp.detach() - logp)


@dataclass(frozen=True)
class DirectCoverageOptimization(Objective):
    """``samples`` is N, how many answers may be tried at test time."""

    samples: float = 16.0

    unit: ClassVar[Unit] = "sequence"

    def __post_init__(self) -> None:
        if not (self.samples >= 1 and math.isfinite(self.samples)):
            raise ValueError(f"samples must be at least 1, not {self.samples}; 1 is cross-entropy on whole answers.")

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per answer."""
        return coverage_loss(view.logp if isinstance(view, LabelView) else view.seq_logp, self.samples)


METHOD = DirectCoverageOptimization
