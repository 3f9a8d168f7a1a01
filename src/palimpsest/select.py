"""Which examples are trained on, in which order, and with what weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from palimpsest.audit import Row

__all__ = ["Selection", "Selector"]


@dataclass(frozen=True)
class Selection:
    """The chosen rows: ``index`` [K] int64 into the data, ``weight`` [K] of each, ``score`` [N] of every row."""

    index: Tensor
    weight: Tensor
    score: Tensor

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or self.index.shape != self.weight.shape:
            raise ValueError(
                f"A selection needs one weight per chosen row; it has {tuple(self.index.shape)} rows and "
                f"{tuple(self.weight.shape)} weights."
            )
        if not len(self.index):
            raise ValueError("A selection chose no row; loosen its criterion.")
        if bool((self.weight < 0).any()) or not bool(torch.isfinite(self.weight).all()):
            raise ValueError("A selection's weights must be finite and not negative.")
        if len(set(self.index.tolist())) != len(self.index):
            raise ValueError("A selection names a row twice; give it a weight of 2 instead.")

    def weight_of(self, index: int) -> Tensor:
        """The weight of one chosen row, scalar."""
        return self.weight[(self.index == index).nonzero()[0, 0]]


class Selector(Protocol):
    """A frozen dataclass that looks at data (and, if it must, at a model) and chooses."""

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """Chooses rows of ``data``; the same arguments give the same selection."""
        ...
