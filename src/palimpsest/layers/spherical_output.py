"""An output layer of any number of classes whose exact gradient step costs O(d^2) an item, for losses that ask little.

    o = W h,    W = V U + 1 omega^T    (V: [D, d],  U: [d, d],  omega: [d])
    kept beside it:    Q = W^T W,    w = W^T 1,    U^-1
    a loss of the spherical family needs    A = o_c = V_c (U h) + omega . h,    s = w . h,    q = h^T Q h

Its gradient on W is a multiple of W h h^T, plus the same row for all classes, plus one row for each target.  The first
goes into U, the second into omega, the third into single rows of V, through U^-1; Q, w and U^-1 follow exactly.  So a
step touches O(d^2) numbers an item and one row of V, and is plain gradient descent on W.

Every ``period`` updates, and as soon as an entry of U or U^-1 grows, singular values of U that have left [1/2, 2] are
moved from U into V, which changes nothing but the conditioning; if that is more than a third of them, or D updates have
passed, W is multiplied out and Q and w are taken from it.

Paper: Efficient Exact Gradient Update for training Deep Networks with Very Large Sparse Targets (Vincent et al., 2015),
    arXiv 1412.7091, the engine of The Z-loss (de Brebisson and Vincent, 2016), arXiv 1604.08859.
Code: pascal20100/factored_output_layer (TFactoredSphericalLayer.h).
Tags: learn, architecture, kernel, classifier.
Needs: the objective ``spherical_z``, which asks for A, s and q only. In a loop of your own, ``apply_update`` of the
    layer after each ``backward``.
Differs: the gradient is divided as any loss here is, while the released layer sums over the batch; its weight decay
    forgets Q and w, ours does not. All but V is kept in float64, where the released layer has one precision for all.
    Repairs do not wait for ``period`` when U becomes strained: with few classes, single steps shrink it tenfold, and
    within 50 of them V's rounding in float32 would ruin W. The bias is a column of W that meets a 1 (there 0.001).
    The step has the layer's own ``learning_rate``, which follows the warm-up and the schedule of the stage: no
    optimizer, clipping or combination of gradients reaches W, since Adam or momentum would need numbers for every
    class. Several processes are refused.
See: ``spherical_z``, which works on ordinary output layers too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.layer import StepsItself
from palimpsest.layers._replace import installed, linear_of, output_layer, replace
from palimpsest.views import Moments

__all__ = ["METHOD", "FactoredOutput", "FactoredScores", "SphericalOutput"]

WIDE = torch.float64
LOWEST, HIGHEST = 0.5, 2.0
"""Singular values of U outside these are repaired."""
STRAIN = 64.0
"""Repairs do not wait once a singular value of U may be above this or below its inverse."""


class _Gradient(NamedTuple):
    """What one backward pass says about W, for m items."""

    hidden: Tensor  # [m, d]
    image: Tensor  # [m, d], Q h
    rest: Tensor  # [m, d], the gradient on h without its part 2 q' Q h
    labels: Tensor  # [m]
    target: Tensor  # [m], dL / dA
    total: Tensor  # [m], dL / ds
    square: Tensor  # [m], dL / dq


class FactoredOutput(StepsItself):
    """Scores of D classes from h [B, in], with W [D, in] kept in factors; ``weight`` and ``bias`` are its start.

    In eval mode it gives the logits [B, D].  In train mode it gives ``FactoredScores``; after ``backward``,
    ``apply_update`` makes the step of ``learning_rate`` on W, for all backward passes since the last.
    """

    rows: Tensor  # V [D, d]
    factor: Tensor  # U [d, d]
    inverse: Tensor  # U^-1 [d, d]
    common: Tensor  # omega [d]
    gram: Tensor  # Q = W^T W [d, d]
    total: Tensor  # w = W^T 1 [d]
    updates: Tensor  # [] int64

    def __init__(
        self,
        weight: Tensor,  # [D, in]
        bias: Tensor | None = None,  # [D]
        *,
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        period: int = 100,
    ) -> None:
        super().__init__()
        _check(learning_rate, weight_decay, period)
        self.learning_rate, self.weight_decay, self.period = learning_rate, weight_decay, period
        self.biased = bias is not None
        rows = weight.detach().clone() if bias is None else torch.cat([weight, bias.unsqueeze(1)], 1).detach()
        size = rows.shape[1]
        self.register_buffer("rows", rows)
        self.register_buffer("factor", torch.eye(size, dtype=WIDE, device=rows.device))
        self.register_buffer("inverse", torch.eye(size, dtype=WIDE, device=rows.device))
        self.register_buffer("common", torch.zeros(size, dtype=WIDE, device=rows.device))
        self.register_buffer("gram", _gram(rows))
        self.register_buffer("total", rows.sum(0, dtype=WIDE))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=rows.device))
        self._pending: list[_Gradient] = []

    def forward(self, hidden: Tensor) -> Tensor | FactoredScores:
        """[B, in] -> the logits [B, D], or while training what a loss may ask of them."""
        if self.training:
            return FactoredScores(hidden, self)
        mixed = self._with_one(hidden.to(WIDE)) @ torch.cat([self.factor.T, self.common.unsqueeze(1)], 1)  # [B, d + 1]
        mixed = mixed.to(self.rows.dtype)
        return (F.linear(mixed[:, :-1], self.rows) + mixed[:, -1:]).to(hidden.dtype)

    def moments(self, hidden: Tensor, labels: Tensor) -> Moments:
        """Of the scores for h [B, in]; the backward of what is made from them adds to the next update."""
        classes = len(self.rows)
        if bool(((labels < 0) | (labels >= classes)).any()):
            raise ValueError(
                f"A label lies outside 0..{classes - 1}, the classes of the output layer; correct the rows."
            )
        if torch.is_grad_enabled() and not hidden.requires_grad:
            hidden = hidden.detach().requires_grad_()  # the layer learns above a frozen body too
        with torch.autocast(hidden.device.type, enabled=False):
            whole = self._with_one(hidden.to(WIDE))
            target, total, square = _Spherical.apply(whole, labels, self)  # type: ignore[no-untyped-call]
        mean = total / classes
        return Moments(target, mean, square / classes - mean.square(), classes)

    @torch.no_grad()
    def apply_update(self, pace: float = 1.0) -> None:
        """One step of gradient descent on W, of ``pace`` times the rate, for all backward passes since the last."""
        if not self._pending:
            return
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_world_size() > 1:
            raise ValueError("The factored output layer steps on one process's gradient only; train on one process.")
        batch = _Gradient(*(torch.cat(parts) for parts in zip(*self._pending)))
        self._pending.clear()
        rate = pace * self.learning_rate
        self._step(batch, rate)
        if self.weight_decay:
            keep = 1 - rate * self.weight_decay
            for tensor, scale in (
                (self.factor, keep),
                (self.inverse, 1 / keep),
                (self.common, keep),
                (self.total, keep),
                (self.gram, keep**2),
            ):
                tensor.mul_(scale)
        self.updates += 1
        done = int(self.updates)
        if done % max(self.period, len(self.rows)) == 0:  # O(D d^2), and so O(d^2) an update
            self.multiply_out()
        elif done % self.period == 0 or self._strained():
            self.stabilize()

    def _step(self, g: _Gradient, rate: float) -> None:
        """W <- W - rate * (dL / dW), in the factors.  The order matters: only U^-1 is already the new one for V."""
        h = g.hidden
        scale = 2 * rate * g.square  # [m]
        shrunk = (h @ self.factor.T) * scale.unsqueeze(1)  # [m, d]
        backward = 2 * g.square.unsqueeze(1) * g.image + g.rest  # dL / dh [m, d]
        pairs = self._pairs(g)  # [m, m]
        new_total = h.T @ (2 * g.square * (h @ self.total) + len(self.rows) * g.total + g.target)
        new_common = h.T @ (2 * g.square * (h @ self.common) + g.total)
        self.factor.sub_(shrunk.T @ h)
        self._invert(h, scale)
        change = (h @ self.inverse) * (-rate * g.target).unsqueeze(1)  # [m, d]
        self.rows.index_add_(0, g.labels, change.to(self.rows.dtype))
        self.common.sub_(rate * new_common)
        self.total.sub_(rate * new_total)
        cross = backward.T @ h  # [d, d]
        self.gram.add_(rate**2 * (h.T @ pairs @ h) - rate * (cross + cross.T))
        self.gram.copy_((self.gram + self.gram.T) / 2)

    def _pairs(self, g: _Gradient) -> Tensor:
        """G^T G of the gradient G [D, m] on the scores, [m, m], without G."""
        h, square = g.hidden, g.square
        same = g.labels.unsqueeze(1) == g.labels
        crossed = g.total.outer(g.target) + 2 * square.unsqueeze(1) * (h @ g.rest.T)
        own = 4 * square.outer(square) * (h @ g.image.T) + same * g.target.outer(g.target)
        return own + len(self.rows) * g.total.outer(g.total) + crossed + crossed.T

    def _invert(self, h: Tensor, scale: Tensor) -> None:
        """U^-1 of the new U: by Woodbury's identity for few items, anew for many."""
        count, size = h.shape
        if count < size:
            system = torch.eye(count, dtype=WIDE, device=h.device) - scale.unsqueeze(1) * (h @ h.T)  # [m, m]
            solved, failed = torch.linalg.solve_ex(system, scale.unsqueeze(1) * (h @ self.inverse))  # [m, d]
            self.inverse.add_(h.T @ solved)
        else:
            inverse, failed = torch.linalg.inv_ex(self.factor)
            self.inverse.copy_(inverse)
        if bool(failed):
            raise ValueError(
                "A step of the output layer wipes out a direction of its input, which cannot be kept in factors; lower "
                f"its learning_rate ({self.learning_rate})."
            )

    def _strained(self) -> bool:
        """Whether the sum of squares of U's singular values, or of their inverses, tells of an extreme one."""
        most = HIGHEST**2 * len(self.factor) + STRAIN**2
        return bool(torch.maximum(self.factor.square().sum(), self.inverse.square().sum()) > most)

    @torch.no_grad()
    def stabilize(self) -> None:
        """Moves extreme singular values of U into V: W, Q and w stay as they are."""
        left, values, _ = torch.linalg.svd(self.factor)
        extreme = (values < LOWEST) | (values > HIGHEST)
        if int(extreme.sum()) > len(values) // 3:
            self.multiply_out()
        elif bool(extreme.any()):
            left, values = left[:, extreme], values[extreme]  # [d, k], [k]
            self.factor.add_((left * (1 / values - 1)) @ (left.T @ self.factor))
            along = self.rows @ left.to(self.rows.dtype)  # [D, k]
            self.rows.add_((along * (values - 1).to(self.rows.dtype)) @ left.T.to(self.rows.dtype))
            self.inverse.copy_(torch.linalg.inv(self.factor))

    @torch.no_grad()
    def multiply_out(self) -> None:
        """V <- W, U <- 1, omega <- 0; Q and w anew from W, which sheds what rounding has added to them."""
        self.rows.copy_(self.dense())
        for identity in (self.factor, self.inverse):
            identity.copy_(torch.eye(len(identity), dtype=WIDE, device=identity.device))
        self.common.zero_()
        self.gram.copy_(_gram(self.rows))
        self.total.copy_(self.rows.sum(0, dtype=WIDE))

    @torch.no_grad()
    def dense(self) -> Tensor:
        """W [D, d], a bias being its last column."""
        return self.rows @ self.factor.to(self.rows.dtype) + self.common.to(self.rows.dtype)

    def linear(self) -> nn.Linear:
        """The ordinary output layer that computes the same."""
        whole = self.dense()
        weight = whole[:, :-1] if self.biased else whole
        return linear_of(weight, whole[:, -1] if self.biased else None)

    def _with_one(self, hidden: Tensor) -> Tensor:
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1) if self.biased else hidden


def _gram(rows: Tensor) -> Tensor:
    """rows^T rows in float64, a block of rows at a time."""
    size = rows.shape[1]
    gram = torch.zeros(size, size, dtype=WIDE, device=rows.device)
    for block in torch.split(rows, 1 << 14):
        wide = block.to(WIDE)
        gram.addmm_(wide.T, wide)
    return gram


class _Spherical(torch.autograd.Function):
    """(A, s, q) of the scores of h; the backward leaves the gradient on W with the layer."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, layer: FactoredOutput) -> tuple[Tensor, Tensor, Tensor]:
        image = hidden @ layer.gram  # [m, d]
        row = layer.rows[labels].to(WIDE) @ layer.factor + layer.common  # [m, d], W_c
        ctx.layer = layer
        ctx.save_for_backward(hidden, labels, image, row)
        return (row * hidden).sum(1), hidden @ layer.total, (image * hidden).sum(1)

    @staticmethod
    def backward(ctx: Any, target: Tensor, total: Tensor, square: Tensor) -> tuple[Tensor, None, None]:
        hidden, labels, image, row = ctx.saved_tensors
        layer: FactoredOutput = ctx.layer
        rest = row * target.unsqueeze(1) + total.outer(layer.total)
        layer._pending.append(_Gradient(hidden.detach(), image, rest, labels, target, total, square))
        return 2 * square.unsqueeze(1) * image + rest, None, None


@dataclass(frozen=True)
class FactoredScores:
    """Scores [B, D] of h [B, in] that have not been computed."""

    hidden: Tensor
    layer: FactoredOutput

    @property
    def shape(self) -> tuple[int, int]:
        """(B, D)."""
        return len(self.hidden), len(self.layer.rows)

    def split(self, sizes: list[int]) -> Sequence[FactoredScores]:
        """The scores of successive rows."""
        return [FactoredScores(part, self.layer) for part in torch.split(self.hidden, sizes)]

    def moments(self, labels: Tensor) -> Moments:
        """For the classes ``labels`` [B]."""
        return self.layer.moments(self.hidden, labels)

    def logits(self) -> Tensor:
        """Always an error: a gradient on all scores is what this layer avoids."""
        raise ValueError(
            "The factored output layer gives a loss only the target's score and the moments of all; train it with "
            "spherical_z, or leave spherical_output away."
        )


@dataclass(frozen=True)
class SphericalOutput:
    """``learning_rate`` and ``weight_decay`` of the layer's own gradient descent; ``period`` updates between repairs.

    ``head`` is the path of the output layer (None: the last linear layer).
    """

    learning_rate: float = 0.01
    weight_decay: float = 0.0
    period: int = 100
    head: str | None = None

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.weight_decay, self.period)

    def install(self, model: nn.Module) -> None:
        """Puts a ``FactoredOutput`` in the place of the output layer."""
        path, head = output_layer(model, self.head)
        if type(head) is not nn.Linear:
            raise ValueError(f"{path} is a {type(head).__name__}; the factored output layer replaces a linear layer.")
        settings = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        replace(model, path, FactoredOutput(head.weight, head.bias, **settings, period=self.period))

    def merge(self, model: nn.Module) -> None:
        """Puts an ordinary linear layer back."""
        for path, layer in installed(model, FactoredOutput):
            replace(model, path, layer.linear())


def _check(learning_rate: float, weight_decay: float, period: int) -> None:
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate must be a finite number above 0, not {learning_rate}.")
    if not 0 <= weight_decay * learning_rate < 1:
        raise ValueError(f"weight_decay must be at least 0 and below 1 / learning_rate, not {weight_decay}.")
    if period < 1:
        raise ValueError(f"period must be at least 1 update, not {period}.")


METHOD = SphericalOutput
