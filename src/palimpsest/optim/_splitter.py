"""A matrix's gradient in two parts: a small one that an optimizer spends state on, and the rest.

    split = Leading.refresh(gradient, size, generator)      # a new choice; for the other kinds see SPLITS
    part = split.down(gradient)                             # what the moments are kept of
    split.add_up(weight, step, -rate)                       # a step in the part, taken by the whole matrix
    split.residual(gradient, part)                          # gradient - up(part)

All that must be saved of a split is one tensor, ``chosen``: a basis or a list of places.  With the shape of the matrix,
which also tells the side that is projected, it makes the split again.
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
    """``chosen`` says which part of a matrix of that ``shape``, [m, n], it is."""

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
        """[m, n] -> the part."""

    @abstractmethod
    def add_up(self, target: Tensor, part: Tensor, scale: float) -> None:
        """Adds ``scale`` times a part, brought back to [m, n], to ``target`` in place."""

    @property
    def complete(self) -> bool:
        """Whether the part is all there is, so that a residual would be rounding noise."""
        return False

    def up(self, part: Tensor) -> Tensor:
        """The part -> [m, n]."""
        whole = part.new_zeros(self.shape)
        self.add_up(whole, part, 1.0)
        return whole

    def residual(self, gradient: Tensor, part: Tensor, scale: float = 1.0) -> Tensor:
        """[m, n]: the gradient without ``scale`` times the part, which is ``down(gradient)``."""
        rest = gradient.clone()
        self.add_up(rest, part, -scale)
        return rest


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
        return self.chosen.shape[1 - self.dim] == min(self.shape)

    def down(self, gradient: Tensor) -> Tensor:
        return gradient @ self.chosen.T if self.dim else self.chosen.T @ gradient

    def add_up(self, target: Tensor, part: Tensor, scale: float) -> None:
        if self.dim:
            target.addmm_(part, self.chosen, alpha=scale)
        else:
            target.addmm_(self.chosen, part, alpha=scale)


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

    along = 1

    @classmethod
    def refresh(cls, gradient: Tensor, size: int, generator: torch.Generator) -> Self:
        places = torch.randperm(gradient.shape[cls.along], generator=generator)[:size]
        return cls(places.sort().values.to(gradient.device), gradient.shape)

    @classmethod
    def size_of(cls, shape: torch.Size, density: float) -> int:
        return int(density * shape[cls.along])

    def down(self, gradient: Tensor) -> Tensor:
        return gradient.index_select(self.along, self.chosen)

    def add_up(self, target: Tensor, part: Tensor, scale: float) -> None:
        target.index_add_(self.along, self.chosen, part, alpha=scale)


class Rows(Columns):
    """Whole rows, drawn."""

    along = 0


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

    @property
    def _places(self) -> tuple[Tensor, Tensor]:
        flat = self.chosen.long()
        return flat // self.shape[1], flat % self.shape[1]

    def down(self, gradient: Tensor) -> Tensor:
        return gradient[self._places]

    def add_up(self, target: Tensor, part: Tensor, scale: float) -> None:
        target.index_put_(self._places, part * scale, accumulate=True)


SPLITS: Mapping[str, type[Split]] = {
    "svd": Leading,
    "random": RandomBasis,
    "columns": Columns,
    "rows": Rows,
    "entries": Entries,
}
"""Name in a recipe -> how a matrix is split."""
