"""Asks that the target's score stand out from those of all classes, by its distance from their mean in deviations.

    z_c = (o_c - mu) / sigma,    mu = (1/D) sum_k o_k,    sigma^2 = (1/D) sum_k (o_k - mu)^2
    L = (1/a) log(1 + exp(a (b - z_c)))

o are the scores of D classes, c the target, a the ``slope`` and b the ``shift``.  Neither a shift of all scores nor a
common factor changes L, and it looks only at o_c, the sum and the sum of squares, so that neither memory nor time need
grow with D times the items.  No likelihood: rank by the scores, and compare no perplexities.

Paper: The Z-loss: a shift and scale invariant classification loss belonging to the Spherical Family (de Brebisson and
    Vincent, 2016), arXiv 1604.08859; the family: Vincent et al., 2015, arXiv 1412.7091.
Code: pascal20100/factored_output_layer (example/timing_example.py, z_loss).
Tags: learn, loss, classifier, language-model.
Needs: nothing; with ``layers: spherical_output`` a step costs the same for any number of classes.
Differs: ``epsilon`` is added to sigma in square, inside the root, so that equal scores have gradient 0 instead of none;
    the released code adds 1e-12 to sigma. On language models with an ordinary head the moments come from the mean and
    the covariance of its V rows, O(V D^2 + N D^2) for N tokens of width D, without the N x V logits. ``member`` takes
    the family's other losses, which the papers compare with. |z_c| is at most sqrt(D - 1): let b grow with sqrt(D).
See: ``cross_entropy``; ``lse_square``, an unrelated penalty that is also called z-loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, Moments, TokenView, Unit

__all__ = [
    "METHOD",
    "SphericalZ",
    "moments_of",
    "spherical_softmax_loss",
    "squared_error_loss",
    "taylor_softmax_loss",
    "z_loss",
]


def z_loss(moments: Moments, slope: float = 1.0, shift: float = 0.0, epsilon: float = 1e-6) -> Tensor:
    """The Z-loss, [N] -> [N], at least 0."""
    z = (moments.target - moments.mean) / (moments.variance.clamp_min(0) + epsilon**2).sqrt()
    return F.softplus(slope * (shift - z)) / slope


def squared_error_loss(moments: Moments) -> Tensor:
    """Squared distance of the scores from the target's indicator, summed over classes: q - 2 A + 1, [N]."""
    return moments.classes * (moments.variance + moments.mean.square()) - 2 * moments.target + 1


def taylor_softmax_loss(moments: Moments) -> Tensor:
    """-log of a softmax whose exponential is its Taylor series to second order, [N]."""
    square = moments.variance + moments.mean.square()
    own = 1 + moments.target + moments.target.square() / 2  # at least 1/2
    return (moments.classes * (1 + moments.mean + square / 2)).log() - own.log()


def spherical_softmax_loss(moments: Moments, epsilon: float = 1e-6) -> Tensor:
    """-log of the target's share of the sum of squares, [N]; ``epsilon`` is added to every square."""
    square = moments.variance + moments.mean.square()
    return (moments.classes * (square + epsilon)).log() - (moments.target.square() + epsilon).log()


def moments_of(view: TokenView | LabelView) -> Moments:
    """The moments of each row's scores, or of each scored token's in the order of ``view.mask``.

    A language model's logits are never made where its head is apart and has no cap: over the vocabulary they have the
    mean h . w and the variance h^T S h, with the mean w and the covariance S of the head's rows.
    """
    if isinstance(view, LabelView):
        return view.moments
    out, counted = view.outputs, view.mask
    targets = view.targets[counted]  # [N]
    if out.hidden is None or out.head is None or out.head.softcap is not None:
        return Moments.of(view.logits[:, :-1][counted], targets)
    hidden, weight = out.hidden[:, :-1][counted], out.head.weight  # [N, D], [V, D]
    wide = torch.promote_types(torch.float32, torch.promote_types(hidden.dtype, weight.dtype))
    with torch.autocast(hidden.device.type, enabled=False):
        hidden, weight = hidden.to(wide), weight.to(wide) * out.head.scale
        if out.head.bias is not None:  # one more entry of every row, met by a 1
            weight = torch.cat([weight, out.head.bias.to(wide).unsqueeze(1)], 1)
            hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1)
        middle = weight.mean(0)  # [D]
        apart = weight - middle  # [V, D]; q / V - mu^2 would lose the digits that both have in common
        variance = ((hidden @ (apart.T @ apart)) * hidden).sum(1) / len(weight)
        target = (hidden * weight[targets]).sum(1)
        return Moments(target, hidden @ middle, variance, len(weight))


@dataclass(frozen=True)
class SphericalZ(Objective):
    """``slope`` a > 0 and ``shift`` b: z of the target from which on the loss fades, tuned together.

    ``member`` of the spherical family: z, or one of those the paper compares it with, which have no settings.
    """

    slope: float = 1.0
    shift: float = 0.0
    epsilon: float = 1e-6
    member: Literal["z", "squared_error", "taylor_softmax", "spherical_softmax"] = "z"

    unit: ClassVar[Unit] = "token"

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise ValueError(f"slope must be above 0, not {self.slope}.")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, not {self.epsilon}; 1e-6 is small enough.")

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1], 0 where not scored; [B] for a classifier."""
        moments = moments_of(view)
        if self.member == "z":
            losses = z_loss(moments, self.slope, self.shift, self.epsilon)
        elif self.member == "squared_error":
            losses = squared_error_loss(moments)
        elif self.member == "taylor_softmax":
            losses = taylor_softmax_loss(moments)
        else:
            losses = spherical_softmax_loss(moments, self.epsilon)
        if isinstance(view, LabelView):
            return losses
        return losses.new_zeros(view.mask.shape).masked_scatter(view.mask, losses)


METHOD = SphericalZ
