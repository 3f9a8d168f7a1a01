"""Rows behind each other in place of padding.

Attention looks at all pairs of positions of a row, so one row that holds all of a batch would cost the square of its
tokens.  Rows are therefore put behind each other only up to the width of the longest: then no part of a forward costs
more than with padding, and attention less where a shorter row finds a place beside another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Packing", "packing"]


@dataclass(frozen=True)
class Packing:
    """Where each token of a padded batch [B, T] stands among the packed rows [R, W]; N tokens in all.

    ``padded`` and ``packed`` are (row, column) of each, [N]; ``positions`` [R, W] count from 0 in every row of the
    batch, and in what is left at the end of a packed row, which is filled and attends to itself alone.
    """

    shape: torch.Size
    padded: tuple[Tensor, Tensor]
    packed: tuple[Tensor, Tensor]
    positions: Tensor

    def pack(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> [R, W]."""
        return ids.new_zeros(self.positions.shape).index_put(self.packed, ids[self.padded])

    def unpack(self, value: Tensor) -> Tensor:
        """What the model says of each token [R, W, D] -> [B, T, D], zeros where the batch is padded."""
        return value.new_zeros(*self.shape, value.shape[-1]).index_put(self.padded, value[self.packed])


def packing(mask: Tensor, *, one_row: bool = False) -> Packing:
    """The packing of a batch with this mask [B, T], first fit, the longest rows first.

    ``one_row`` puts all tokens into one, for an attention that knows the borders and so costs no more for it.
    """
    lengths = [int(length) for length in mask.sum(1)]
    width = sum(lengths) if one_row else max(lengths)
    free: list[int] = []  # columns left in each packed row
    places: dict[int, tuple[int, int]] = {}
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        into = next((r for r, left in enumerate(free) if left >= lengths[row]), len(free))
        if into == len(free):
            free.append(width)
        places[row] = (into, width - free[into])
        free[into] -= lengths[row]
    rows, columns = mask.bool().nonzero(as_tuple=True)  # [N]
    own = (mask.cumsum(1) - 1)[rows, columns]  # [N], the position of each token in its row
    at = torch.tensor([places[row] for row in range(len(lengths))], device=mask.device)  # [B, 2]
    packed = (at[rows, 0], at[rows, 1] + own)
    used = torch.tensor([width - left for left in free], device=mask.device)  # [R]
    positions = torch.arange(width, device=mask.device)[None] - used[:, None]  # [R, W], from 0 in what is left
    return Packing(mask.shape, (rows, columns), packed, positions.index_put(packed, own))
