"""How the gradients of several terms meet.

``Sum`` adds them, in one backward pass. The others look at the gradients of groups of terms apart, so they
need one backward pass a group and refuse models whose gradients a wrapper reduces (DDP, FSDP).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from palimpsest.objective import Total

__all__ = ["Combine", "ConeProjection", "OneSidedProjection", "Sum"]

Gradients = list[Tensor]
"""One tensor a trainable parameter, in the order of ``model.parameters()``."""


class Combine(Protocol):
    """A frozen dataclass: which terms are differentiated together, and how their gradients merge."""

    def groups(self, total: Total) -> list[tuple[str, ...]]:
        """Names of the terms of each group; one group means one ordinary backward pass."""
        ...

    def merge(self, gradients: Sequence[Gradients]) -> Gradients:
        """The gradient to step along, from those of the groups over the whole accumulation window."""
        ...


@dataclass(frozen=True)
class Sum:
    """The weighted sum of the terms."""

    def groups(self, total: Total) -> list[tuple[str, ...]]:
        """All terms together."""
        return [tuple(t.name for t in total.terms)]

    def merge(self, gradients: Sequence[Gradients]) -> Gradients:
        """The one gradient as it is."""
        return gradients[0]


@dataclass(frozen=True)
class OneSidedProjection:
    """Removes from the other terms' gradient what would raise the loss on one protected role.

    g' = g - (<g, k> / <k, k>) k   if <g, k> < 0, else g;   step along g' + k (or g' alone)

    k is the gradient of the terms on ``protect``. With ``follow=False`` only g' is followed, which is A-GEM
    (Chaudhry et al., 2019, equation 11).
    """

    protect: str = "retain"
    follow: bool = True

    def groups(self, total: Total) -> list[tuple[str, ...]]:
        """The other terms, then the protected ones."""
        kept = tuple(t.name for t in total.terms if self.protect in t.role)
        rest = tuple(t.name for t in total.terms if self.protect not in t.role)
        if not kept or not rest:
            raise ValueError(
                f"The projection protects the role {self.protect!r}, so the objective needs a term on it and one "
                f"elsewhere; the terms are: {', '.join(t.name for t in total.terms)}."
            )
        return [rest, kept]

    def merge(self, gradients: Sequence[Gradients]) -> Gradients:
        """The projected gradient, plus the protected one where it is followed."""
        rest, kept = gradients
        dot, square = _dot(rest, kept), _dot(kept, kept)
        factor = torch.where(square > 0, (dot / square.clamp_min(1e-300)).clamp_max(0.0), 0.0)
        projected = [g - factor.to(g.dtype) * k for g, k in zip(rest, kept, strict=True)]
        return [p + k for p, k in zip(projected, kept, strict=True)] if self.follow else projected


@dataclass(frozen=True)
class ConeProjection:
    """The nearest direction to the other terms' gradient that raises the loss on none of several protected roles.

    g' = g + sum_t v_t k_t;   v = argmin over v >= margin of 1/2 v (K K^T + eps I) v + (K g) v,   eps = 1e-3

    k_t, the rows of K, are the gradients of the terms on each role of ``protect``.  With ``margin`` 0, <g', k_t> >= 0
    for all of them, up to eps; a larger one follows every k_t a little.  This is GEM (Lopez-Paz and Ranzato, 2017,
    arXiv 1706.08840, equation 11), at the price of one backward pass a role.  As in its released code, nothing is
    projected where no <g, k_t> is below 0.
    """

    protect: tuple[str, ...]
    margin: float = 0.5

    def __post_init__(self) -> None:
        if not self.protect or len(set(self.protect)) != len(self.protect):
            raise ValueError("protect names the roles whose losses may not rise, each once.")
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise ValueError(f"margin is a finite number of at least 0, not {self.margin}.")

    def groups(self, total: Total) -> list[tuple[str, ...]]:
        """The other terms, then those of each protected role."""
        kept = [tuple(t.name for t in total.terms if role in t.role) for role in self.protect]
        rest = tuple(t.name for t in total.terms if not set(self.protect) & set(t.role))
        missing = [role for role, names in zip(self.protect, kept) if not names]
        if missing or not rest:
            raise ValueError(
                f"The projection protects the roles {', '.join(self.protect)}, so the objective needs a term on each"
                f" and one elsewhere; the terms are: {', '.join(t.name for t in total.terms)}."
            )
        shared = [t.name for t in total.terms if len(set(self.protect) & set(t.role)) > 1]
        if shared:
            raise ValueError(f"{shared[0]} is on two of the protected roles; protect one of them, or split the term.")
        return [rest, *kept]

    def merge(self, gradients: Sequence[Gradients]) -> Gradients:
        """The projected gradient."""
        rest, *kept = gradients
        along = torch.stack([_dot(rest, k) for k in kept])  # [t]
        if bool((along >= 0).all()):
            return rest
        gram = torch.stack([torch.stack([_dot(a, b) for b in kept]) for a in kept])  # [t, t]
        gram = (gram + 1e-3 * torch.eye(len(kept), dtype=gram.dtype, device=gram.device)).cpu()
        least = torch.full((len(kept),), self.margin, dtype=gram.dtype)
        factors = least + _least_squares(gram, along.cpu() + gram @ least)
        moved = [g.clone() for g in rest]
        for factor, own in zip(factors.tolist(), kept):
            torch._foreach_add_(moved, own, alpha=factor)
        return moved


def _dot(one: Gradients, other: Gradients) -> Tensor:
    """The inner product of two gradients over all parameters, in float64, scalar."""
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)]).sum()


def _least_squares(matrix: Tensor, linear: Tensor) -> Tensor:
    """argmin over u >= 0 of 1/2 u A u + c u, for a positive definite A [t, t] and c [t], by Murty's pivoting.

    Which entries are above 0 is changed at the first that breaks a condition, until none does: finitely often.
    """
    free = torch.zeros(len(linear), dtype=torch.bool)
    slack = 1e-12 * float(linear.abs().max().clamp_min(1.0))
    for _ in range(4 ** min(len(linear), 10)):
        found = torch.zeros_like(linear)
        if bool(free.any()):
            found[free] = torch.linalg.solve(matrix[free][:, free], -linear[free])
        wrong = torch.where(free, found, matrix @ found + linear) < -slack
        if not bool(wrong.any()):
            break
        free[int(wrong.nonzero()[0, 0])] ^= True
    return found.clamp_min(0.0)
