"""How the gradients of several terms meet.

``Sum`` adds them, in one backward pass. The others look at the gradients of groups of terms apart, so they
need one backward pass a group and refuse models whose gradients a wrapper reduces (DDP, FSDP).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from palimpsest.objective import Total

__all__ = ["Combine", "OneSidedProjection", "Sum"]

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
        dot = torch.stack([(g * k).sum(dtype=torch.float64) for g, k in zip(rest, kept, strict=True)]).sum()
        square = torch.stack([k.square().sum(dtype=torch.float64) for k in kept]).sum()
        factor = torch.where(square > 0, (dot / square.clamp_min(1e-300)).clamp_max(0.0), 0.0)
        projected = [g - factor.to(g.dtype) * k for g, k in zip(rest, kept, strict=True)]
        return [p + k for p, k in zip(projected, kept, strict=True)] if self.follow else projected
