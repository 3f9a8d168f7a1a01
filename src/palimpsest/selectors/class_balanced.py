"""Keeps a fixed number of the rows seen so far, as many of each class as there are: a replay buffer for rare classes.

    buffer = for each class c the min(n_c, L) rows with the smallest keys, L as large as m rows allow;
             rows that are left over go one each to the classes whose next key is smallest

Within a class each row is kept with the same probability. As with ``reservoir``, what is dropped never returns.

Paper: Online Continual Learning from Imbalanced Data (Chrysakis and Moens, 2020), class-balancing reservoir sampling.
Code: ContinualAI/avalanche (ClassBalancedBuffer).
Tags: retain, replay, data-selection, continual-learning, imbalance.
Needs: the column label.
Differs: the released buffer gives every class m / C rows even where a class has fewer, so a part of it may stay empty;
    here the rest is shared out. Which row is kept depends on the row and the seed alone.
See: ``reservoir``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.audit import Row, column
from palimpsest.select import Selection
from palimpsest.selectors.reservoir import buffer_keys

__all__ = ["METHOD", "ClassBalanced", "balanced"]


def balanced(keys: Tensor, labels: Sequence[Any], size: int) -> Tensor:
    """Places of at most ``size`` rows with the smallest ``keys`` [N] of their label, in ascending order."""
    of_class: dict[Any, list[int]] = {}
    for place in keys.argsort(stable=True).tolist():
        of_class.setdefault(labels[place], []).append(place)
    ranked = sorted((rank, float(keys[p]), p) for places in of_class.values() for rank, p in enumerate(places))
    return torch.tensor(sorted(place for _, _, place in ranked[:size]), dtype=torch.int64)


@dataclass(frozen=True)
class ClassBalanced:
    """``size`` rows at most; ``column`` holds a row's class."""

    size: int = 200
    column: str = "label"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}; leave the replay role out for no buffer.")

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """Chooses of the rows seen so far; a row's score is its key."""
        keys = buffer_keys(data, self.seed)
        index = balanced(keys, column(data, self.column, "selected", "class_balanced"), self.size)
        return Selection(index, torch.ones(len(index)), keys)


METHOD = ClassBalanced
