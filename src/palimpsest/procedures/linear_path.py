"""Measures a model along the straight line between two sets of its weights, such as the adapters after two tasks.

    theta(a) = (1 - a) theta_start + a theta_end,    a = 0, 0.1, ..., 1
    barrier = max over a of [ loss(a) - ((1 - a) loss(0) + a loss(1)) ]

Two minima are linearly mode-connected where the barrier is about 0.

Paper: Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning (Ren et al., 2024), arXiv
    2402.18865; the barrier as in Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle et al., 2020),
    arXiv 1912.05671.
Code: which47/LLMCL.
Tags: continual-learning, training-dynamics, adapter, language-model, classifier.
Needs: two sets of weights, as ``trained_weights`` takes them, and a function that measures the model.
Differs: nothing known. The weights themselves are interpolated, so for an adapter its factors, which is not the line
    between their products: A, B and -A, -B are the same model, and half way between them there is no adapter at all.
See: ``embedding_consistency``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["METHOD", "LinePath", "interpolated", "linear_path", "trained_weights"]

TENTHS = tuple(i / 10 for i in range(11))


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], amount: float) -> dict[str, Tensor]:
    """(1 - amount) start + amount end, by name; exact at 0 and 1."""
    if start.keys() != end.keys():
        odd = min(start.keys() ^ end.keys())
        raise ValueError(f"Only one of the two ends has {odd!r}; take both from models with the same adapter.")
    return {name: torch.lerp(value, end[name], amount) for name, value in start.items()}


@dataclass(frozen=True)
class LinePath:
    """What was measured at each of ``amounts``, from the start at 0 to the end at 1."""

    amounts: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """How far the losses rise above the straight line between the ends; at least 0."""
        first, last = self.losses[0], self.losses[-1]
        return max(loss - ((1 - a) * first + a * last) for a, loss in zip(self.amounts, self.losses))

    @property
    def best(self) -> float:
        """The first amount with the lowest loss."""
        return self.amounts[self.losses.index(min(self.losses))]


def linear_path(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    loss: Callable[[nn.Module], float],
    amounts: Sequence[float] = TENTHS,
) -> LinePath:
    """``loss`` of the model at each of ``amounts`` of the way; its weights are as before afterwards.

    Raises ``ValueError`` for amounts that do not go from 0 to 1, and for weights that the model does not have.
    """
    if len(amounts) < 2 or amounts[0] != 0 or amounts[-1] != 1 or list(amounts) != sorted(amounts):
        raise ValueError(f"The amounts go upwards from 0 to 1, not {list(amounts)}.")
    own = dict(model.named_parameters())
    unknown = [name for name in start if name not in own]
    if unknown:
        raise ValueError(f"The model has no weight {unknown[0]!r}; take the ends from this model.")
    before = {name: own[name].detach().clone() for name in start}
    losses = []
    try:
        for amount in amounts:
            _put(own, interpolated(start, end, amount))
            losses.append(float(loss(model)))
    finally:
        _put(own, before)
    return LinePath(tuple(amounts), tuple(losses))


def _put(own: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


METHOD = linear_path
