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
    the rank takes a full step.
See: ``galore`` (without the rest), ``frugal`` (its signs instead).
"""

from __future__ import annotations

import torch
from torch import Tensor

from palimpsest.optim._part_optimizer import SubspaceAdam
from palimpsest.optim._split_optimizer import MODULES, Group, Member, Parameters, common
from palimpsest.optim._splitter import Split, Subspace

__all__ = ["METHOD", "Fira", "growth_limit", "scaling"]

NOT_YET_SET = 1e-6
"""A stored norm below this share of the present one says nothing about it."""


def scaling(direction: Tensor, part: Tensor, dim: int) -> Tensor:
    """phi: how much Adam lengthened each row (``dim`` 1) or column (``dim`` 0) of the part, [m, 1] or [1, n]."""
    phi: Tensor = direction.norm(dim=dim, keepdim=True) / (part.norm(dim=dim, keepdim=True) + 1e-8)
    return phi


def growth_limit(norm: Tensor, before: Tensor, gamma: float) -> Tensor:
    """What the rest is multiplied with, at most 1, so that its norm becomes at most ``gamma`` times the one before."""
    limit: Tensor = gamma / (norm / (before + 1e-8)).clamp_min(gamma)
    return limit


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

    def _move(self, group: Group, member: Member, split: Split, part: Tensor, direction: Tensor, factor: float) -> None:
        assert isinstance(split, Subspace)
        rest = split.residual(member.gradient, part, group["alpha"] if group["as_released"] else 1.0)  # [m, n]
        rest.mul_(scaling(direction, part, split.dim))
        rest.mul_(self._limit(group, member, rest))
        rate = -group["lr"] * factor
        member.weight.add_(rest, alpha=rate)
        split.add_up(member.weight, direction, rate * group["alpha"])

    def _limit(self, group: Group, member: Member, rest: Tensor) -> Tensor:
        """The limiter's multiplier; keeps the norm that results, for the next step."""
        norm = torch.linalg.vector_norm(rest, dtype=torch.promote_types(rest.dtype, torch.float32))
        limit = torch.ones_like(norm)
        before = member.state.get("residual_norm")
        if before is not None:  # decided on the device, so that no GPU waits
            limit = growth_limit(norm, before, group["gamma"])
            if not group["as_released"]:
                limit = torch.where(before > NOT_YET_SET * norm, limit, 1.0)
        member.state["residual_norm"] = norm * limit
        return limit


METHOD = Fira
