"""A matrix's gradient in two parts: a small one that an optimizer spends state on, and the rest.

    split = Leading.refresh(gradient, size, generator)      # a new choice; for the other kinds see SPLITS
    part = split.down(gradient)                             # what the moments are kept of
    split.add_up(weight, step, -rate)                       # a step in the part, taken by the whole matrix
    split.residual_(gradient, part)                         # gradient - up(part), in the gradient's place

All that must be saved of a split is one tensor, ``chosen``: a basis or a list of places.  With the shape of the matrix,
which also tells the side that is projected, it makes the split again.  A choice is made for one matrix; of B matrices
of one shape the choices can be stacked, and then all of them are split at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from palimpsest.roles import seeded

__all__ = [
    "SPLITS",
    "Columns",
    "Entries",
    "Leading",
    "Order",
    "RandomBasis",
    "Rows",
    "Split",
    "Subspace",
    "blocks",
    "draw",
]

Order = Literal["random", "ascending", "descending"]
"""In which order blocks have their turn."""


def draw(*place: object) -> torch.Generator:
    """A generator that depends on nothing but its place: equal on all processes, and with no state to be saved."""
    return torch.Generator().manual_seed(seeded(*place))


def blocks(count: int, active: int, order: Order, period: int, seed: int) -> frozenset[int]:
    """Which ``active`` of ``count`` blocks have their turn in a period; each has one in count / active periods.

    In the order ``random`` every period is drawn by itself.
    """
    if order == "random":
        return frozenset(torch.randperm(count, generator=draw(seed, "blocks", period))[:active].tolist())
    places = [(period * active + i) % count for i in range(active)]
    return frozenset(places if order == "ascending" else [count - 1 - place for place in places])


@dataclass(frozen=True, eq=False)
class Split(ABC):
    """``chosen`` says which part of a matrix of that ``shape``, [m, n], it is; stacked, of each of [B, m, n]."""

    chosen: Tensor
    shape: torch.Size

    @classmethod
    @abstractmethod
    def refresh(cls, gradient: Tensor, size: int, generator: torch.Generator) -> Self:
        """A new choice of that size."""

    @staticmethod
    @abstractmethod
    def size_of(shape: torch.Size, density: float) -> int:
        """The size that holds that share of a matrix."""

    @abstractmethod
    def down(self, gradient: Tensor) -> Tensor:
        """[..., m, n] -> the part."""

    @abstractmethod
    def add_up(self, target: Tensor, part: Tensor, scale: float, keep: float = 1.0) -> None:
        """Makes ``target`` [..., m, n] ``keep`` times what it is plus ``scale`` times a part brought back there."""

    @property
    def complete(self) -> bool:
        """Whether the part is all there is, so that a residual would be rounding noise."""
        return False

    def up(self, part: Tensor) -> Tensor:
        """The part of one matrix -> [m, n]."""
        whole = part.new_zeros(self.shape)
        self.add_up(whole, part, 1.0)
        return whole

    def residual_(self, gradient: Tensor, part: Tensor, scale: float = 1.0) -> Tensor:
        """[..., m, n]: takes ``scale`` times the part, which is ``down(gradient)``, out of the gradient in place."""
        self.add_up(gradient, part, -scale)
        return gradient


class Subspace(Split):
    """An orthonormal basis of the smaller side: rows [r, n] of a tall or square matrix, columns [m, r] of a wide."""

    @staticmethod
    def size_of(shape: torch.Size, density: float) -> int:
        return round(density * min(shape))

    @property
    def dim(self) -> int:
        """The dimension of a part, [m, r] or [r, n], that the basis spans."""
        return 1 if self.shape[0] >= self.shape[1] else 0

    @property
    def complete(self) -> bool:
        return self.chosen.shape[-1 - self.dim] == min(self.shape)

    def down(self, gradient: Tensor) -> Tensor:
        return gradient @ self.chosen.mT if self.dim else self.chosen.mT @ gradient

    def add_up(self, target: Tensor, part: Tensor, scale: float, keep: float = 1.0) -> None:
        left, right = (part, self.chosen) if self.dim else (self.chosen, part)
        product = Tensor.addmm_ if target.ndim == 2 else Tensor.baddbmm_
        product(target, left, right, beta=keep, alpha=scale)


class Leading(Subspace):
    """The leading singular vectors of the gradient, the entry of largest magnitude of each made positive.

    Signs are arbitrary in a decomposition, and moments that outlive a refresh depend on them.
    """

    @classmethod
    def refresh(cls, gradient: Tensor, size: int, generator: torch.Generator) -> Self:
        smaller = gradient.T if gradient.shape[0] >= gradient.shape[1] else gradient  # [smaller side, larger]
        rows = leading_rows(smaller, size)
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        rows = torch.where(largest < 0, -rows, rows).to(gradient.dtype)
        return cls((rows if gradient.shape[0] >= gradient.shape[1] else rows.T).contiguous(), gradient.shape)


def leading_rows(matrix: Tensor, size: int) -> Tensor:
    """The ``size`` leading left singular vectors of a matrix [m, n], m <= n, as rows [r, m].

    Of a matrix in single precision they are the eigenvectors of its product with itself in double: closer to the true
    ones than a decomposition in single precision, in half of the time or less.
    """
    if matrix.dtype == torch.float64 or matrix.device.type == "mps":  # which has no double precision
        exact = matrix if matrix.dtype == torch.float64 else matrix.float()
        left: Tensor = torch.linalg.svd(exact, full_matrices=False).U
        return left.T[:size]
    wide = matrix.double()
    vectors: Tensor = torch.linalg.eigh(wide @ wide.T).eigenvectors  # from the smallest value to the largest
    return vectors.T.flip(0)[:size]


class RandomBasis(Subspace):
    """A basis drawn uniformly."""

    @classmethod
    def refresh(cls, gradient: Tensor, size: int, generator: torch.Generator) -> Self:
        columns, _ = torch.linalg.qr(torch.randn(min(gradient.shape), size, generator=generator, dtype=torch.float64))
        basis = columns.T if gradient.shape[0] >= gradient.shape[1] else columns
        return cls(basis.contiguous().to(gradient), gradient.shape)


class Columns(Split):
    """Whole columns, drawn; ``chosen`` are their places, in order."""

    along = -1

    @classmethod
    def refresh(cls, gradient: Tensor, size: int, generator: torch.Generator) -> Self:
        places = torch.randperm(gradient.shape[cls.along], generator=generator)[:size]
        return cls(places.sort().values.to(gradient.device), gradient.shape)

    @classmethod
    def size_of(cls, shape: torch.Size, density: float) -> int:
        return int(density * shape[cls.along])

    def down(self, gradient: Tensor) -> Tensor:
        return gradient.gather(self.along, self._places(gradient))

    def add_up(self, target: Tensor, part: Tensor, scale: float, keep: float = 1.0) -> None:
        _kept(target, keep).scatter_add_(self.along, self._places(target), part * scale)

    def _places(self, whole: Tensor) -> Tensor:
        """The place of each entry of the part along its row (or column), [..., m, size] (or [..., size, n])."""
        other = -3 - self.along  # the dimension that is taken whole
        sizes = [-1] * whole.ndim
        sizes[other] = whole.shape[other]
        return self.chosen.unsqueeze(other).expand(sizes)


class Rows(Columns):
    """Whole rows, drawn."""

    along = -2


class Entries(Split):
    """Single entries, drawn; ``chosen`` are their places in the flattened matrix, as int32 where that suffices."""

    @classmethod
    def refresh(cls, gradient: Tensor, size: int, generator: torch.Generator) -> Self:
        places = torch.randperm(gradient.numel(), generator=generator)[:size].sort().values
        small = gradient.numel() <= torch.iinfo(torch.int32).max
        return cls(places.to(gradient.device, torch.int32 if small else torch.int64), gradient.shape)

    @staticmethod
    def size_of(shape: torch.Size, density: float) -> int:
        return int(density * shape.numel())

    def down(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(-2).gather(-1, self.chosen.long())

    def add_up(self, target: Tensor, part: Tensor, scale: float, keep: float = 1.0) -> None:
        flat = _kept(target, keep).view(*target.shape[:-2], -1)
        flat.scatter_add_(-1, self.chosen.long(), part * scale)


def _kept(target: Tensor, share: float) -> Tensor:
    """Multiplied in place; what was not finite is gone where nothing is kept."""
    if share == 0.0:
        return target.zero_()
    return target if share == 1.0 else target.mul_(share)


SPLITS: Mapping[str, type[Split]] = {
    "svd": Leading,
    "random": RandomBasis,
    "columns": Columns,
    "rows": Rows,
    "entries": Entries,
}
"""Name in a recipe -> how a matrix is split."""
