"""Which examples are trained on, in which order, and with what weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from palimpsest.audit import Row

__all__ = ["FillsBatches", "Order", "Selection", "Selector"]


@dataclass(frozen=True, eq=False)
class Order:
    """How a round hands out the chosen rows, where a plain shuffle will not do.

    ``arrange(generator)`` gives ``length`` places among them, int64, each at most once; a batch that holds a multiple
    of ``block`` rows is as the selector meant it.
    """

    arrange: Callable[[torch.Generator], Tensor]
    length: int
    block: int


@dataclass(frozen=True)
class Selection:
    """The chosen rows: ``index`` [K] int64 into the data, ``weight`` [K] of each, ``score`` [N] of every row.

    ``order`` None hands them out shuffled, all of them in every round.
    """

    index: Tensor
    weight: Tensor
    score: Tensor
    order: Order | None = None

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

    @property
    def length(self) -> int:
        """Number of rows that one round hands out."""
        return len(self.index) if self.order is None else self.order.length

    def places(self, generator: torch.Generator) -> Tensor:
        """Which of the chosen rows one round hands out, in its order, [length]."""
        if self.order is None:
            return torch.randperm(len(self.index), generator=generator)
        return self.order.arrange(generator)


class Selector(Protocol):
    """A frozen dataclass that looks at data (and, if it must, at a model) and chooses."""

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """Chooses rows of ``data``; the same arguments give the same selection."""
        ...


@runtime_checkable
class FillsBatches(Protocol):
    """A selector whose selections have an order made for batches of a certain size."""

    @property
    def block(self) -> int:
        """The number of rows of which a batch must hold a multiple."""
        ...
