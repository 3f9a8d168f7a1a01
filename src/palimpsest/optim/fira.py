"""AdamW with moments in a small subspace that applies the rest of each gradient too, scaled by what Adam did inside.

    every T steps:  Q = the first r right (a tall matrix) or left (a wide one) singular vectors of G
    R = G Q^T,  N = Adam's direction for R,  E = G - R Q            (tall; wide: R = Q^T G,  E = G - Q R)
    C = phi E,  phi = ||N_i|| / ||R_i|| for each row (wide: column) i,  C <- C / max(1, ||C|| / (gamma ||C before||))
    W <- W - lr (alpha N Q + C)

The second line of C is the norm-growth limiter: the rest may grow by gamma a step and shrink as it likes.

Paper: Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint? (Chen et al., 2024), arXiv 2410.01623.
Code: xichen-fy/Fira (FiraAdamW).
Tags: optimize, optimizer, pre-training, fine-tuning, language-model.
Needs: parameters with names, or groups that say ``project``; a learning rate of about ten times AdamW's.
Differs: E is orthogonal to the subspace; the released code subtracts alpha R Q, so that with alpha below 1 part of the
    inside counts twice. A stored norm below a millionth of the present one counts as not yet set; in the released code
    a first gradient of zero, or of a rank up to r, switches the rest off for more than a thousand steps.
    ``as_released`` restores both. The signs of singular vectors follow a rule. A matrix whose smaller side is at most
    the rank takes a full step, with a warning, and where none is larger there is an error.
See: ``galore`` (without the rest), ``frugal`` (its signs instead).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest.optim._part_optimizer import SubspaceAdam, Work
from palimpsest.optim._rules import State
from palimpsest.optim._split_optimizer import MODULES, Group, Parameters, common
from palimpsest.optim._splitter import Split, Subspace

__all__ = ["METHOD", "Fira", "growth_limit", "scaling"]

NOT_YET_SET = 1e-6
"""A stored norm below this share of the present one says nothing about it."""


def scaling(direction: Tensor, part: Tensor, dim: int) -> Tensor:
    """phi: how much Adam lengthened each row (``dim`` 1) or column (``dim`` 0) of the part, [m, 1] or [1, n]."""
    return lengths(direction, dim) / (lengths(part, dim) + 1e-8)


def lengths(matrices: Tensor, dim: int) -> Tensor:
    """Norms along a dimension, which is kept; in single precision or better."""
    exact = torch.promote_types(matrices.dtype, torch.float32)
    if dim == -1:
        norms: Tensor = torch.linalg.vector_norm(matrices, dim=dim, keepdim=True, dtype=exact)
        return norms
    # On a CPU torch's norm takes several times as long along any other dimension.
    return matrices.to(exact).square().sum(dim, keepdim=True).sqrt_()


def growth_limit(norm: Tensor, before: Tensor, gamma: float) -> Tensor:
    """What the rest is multiplied with, at most 1, so that its norm becomes at most ``gamma`` times the one before."""
    return (gamma * (before + 1e-8) / norm).clamp_max(1.0)


class Fira(SubspaceAdam):
    """``rank`` r, renewed every ``update_gap`` T steps; ``alpha`` scales what comes back from the subspace, ``gamma``
    bounds the growth of what lies outside."""

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.01,
        weight_decay: float = 0.0,
        *,
        rank: int = 128,
        update_gap: int = 200,
        alpha: float = 0.25,
        gamma: float = 1.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        modules: tuple[str, ...] = MODULES,
        as_released: bool = False,
    ) -> None:
        if not gamma >= 1:
            raise ValueError(f"gamma must be at least 1, not {gamma}; with 1.01 the rest may grow by 1 % a step.")
        defaults = common(lr, weight_decay, betas, eps, update_gap, modules)
        own = {"rank": rank, "alpha": alpha, "gamma": gamma, "as_released": as_released}
        super().__init__(params, {**defaults, **own})

    def _update(self, group: Group, states: Sequence[State], split: Split, work: Work) -> Tensor:
        assert isinstance(split, Subspace)
        along = split.dim - 2
        rest = split.residual_(work.gradients, work.parts, group["alpha"] if group["as_released"] else 1.0)  # [B, m, n]
        phi = scaling(work.directions, work.parts, along)  # [B, m, 1] or [B, 1, n]
        norms = torch.linalg.vector_norm((phi * lengths(rest, along)).flatten(1), dim=1)  # [B]
        rest.mul_(phi * self._limit(group, states, norms / work.factor)[:, None, None])
        split.add_up(rest, work.directions, group["alpha"])
        return rest

    def _limit(self, group: Group, states: Sequence[State], norms: Tensor) -> Tensor:
        """The limiter's multipliers of the rests that have these norms, [B]; keeps what becomes of them."""
        limits = torch.ones_like(norms)
        if "residual_norm" in states[0]:  # decided on the device, so that no GPU waits
            before = torch.stack([s["residual_norm"] for s in states])
            limits = growth_limit(norms, before, group["gamma"])
            if not group["as_released"]:
                limits.masked_fill_(before <= NOT_YET_SET * norms, 1.0)
        else:
            for state in states:
                state["residual_norm"] = norms.new_zeros(())
        torch._foreach_copy_([s["residual_norm"] for s in states], (norms * limits).unbind())
        return limits


METHOD = Fira
