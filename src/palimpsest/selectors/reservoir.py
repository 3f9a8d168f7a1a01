"""Keeps a fixed number of the rows seen so far, each with the same probability: a replay buffer.

    u_i = hash(seed, row i), uniform in [0, 1);    buffer = the m rows with the smallest u_i;    P(i in buffer) = m / N

A row's key depends on nothing but the row and the seed.  So the buffer of a stream's beginning is what a reservoir that
reads the stream row by row would hold there: it knows nothing of what comes later, and what it drops never returns.

Paper: Random Sampling with a Reservoir (Vitter, 1985); as a replay buffer, e.g. Dark Experience for General Continual
    Learning (Buzzega et al., 2020), arXiv 2004.07211.
Code: aimagelab/mammoth (utils/buffer.py), ContinualAI/avalanche (ReservoirSamplingBuffer).
Tags: retain, replay, data-selection, continual-learning.
Needs: nothing.
Differs: those buffers draw a slot for each new row, so what they hold depends on the order of the stream and on earlier
    draws; here it is a function of the set of rows. Each row is kept with the same probability, as there.
See: ``class_balanced``. Experience replay is ``cross_entropy`` on a role ``replay: [task1, task2]`` under
    ``select: {replay: {reservoir: {size: 200}}}``; A-GEM is the same role under ``combine: {one_sided_projection:
    {protect: replay, follow: false}}``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.audit import Row
from palimpsest.data import row_key
from palimpsest.roles import seeded
from palimpsest.select import Selection

__all__ = ["METHOD", "Reservoir", "buffer_keys", "smallest"]


def buffer_keys(rows: Sequence[Row], seed: int) -> Tensor:
    """[N] float64, uniform in [0, 1) and a row's own; of equal rows, each has another."""
    seen: Counter[str] = Counter()
    keys = []
    for row in rows:
        name = row_key(row)
        keys.append(seeded("reservoir", seed, name, seen[name]) / 2**63)
        seen[name] += 1
    return torch.tensor(keys, dtype=torch.float64)


def smallest(keys: Tensor, size: int) -> Tensor:
    """Places of the ``size`` smallest of ``keys`` [N] (all where there are fewer), in ascending order."""
    return keys.argsort(stable=True)[:size].sort().values


@dataclass(frozen=True)
class Reservoir:
    """``size`` rows at most."""

    size: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}; leave the replay role out for no buffer.")

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """Chooses of the rows seen so far; a row's score is its key."""
        keys = buffer_keys(data, self.seed)
        index = smallest(keys, self.size)
        return Selection(index, torch.ones(len(index)), keys)


METHOD = Reservoir
