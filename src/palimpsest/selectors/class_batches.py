"""Fills every batch with several rows of each of a few classes, which losses that compare rows with each other need.

    batch = K rows of each of P classes;   class c stands in at most min(floor(n_c / K), B) of a round's B batches,
    B the largest number with sum over c of min(floor(n_c / K), B) >= P B

No row stands twice in a round.  What a round leaves out is drawn anew for each, and which classes meet in a batch is
drawn by how many rows they still have, so that rare and frequent classes last equally long.

Paper: In Defense of the Triplet Loss for Person Re-Identification (Hermans et al., 2017), arXiv 1703.07737, PK batches.
Code: KevinMusgrave/pytorch-metric-learning (MPerClassSampler).
Tags: learn, data-selection, retrieval, classifier.
Needs: the column label, and ``train.batch`` a multiple of P K.
Differs: the released sampler draws classes alike, however large, and repeats rows of a class that has fewer than K;
    here a round shows a large class more often, and a class with fewer than K rows is left out.
See: ``class_balanced`` (which rows are kept, not how they meet), ``multi_similarity``, ``supervised_contrastive``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.audit import Row, column
from palimpsest.select import Order, Selection

__all__ = ["METHOD", "ClassBatches", "arranged", "classes_of_batches", "most_batches"]


def most_batches(shares: Sequence[int], classes: int) -> int:
    """The largest B for which sum of min(share, B) >= ``classes`` * B: batches of that many different classes."""
    found, before = sum(shares) // classes, -1
    while found != before:  # falls to the largest B that does not fall any more
        before, found = found, min(found, sum(min(share, found) for share in shares) // classes)
    return found


def classes_of_batches(shares: Sequence[int], classes: int, generator: torch.Generator) -> Tensor:
    """Which classes meet in each batch of a round, [B, P], no two alike; class c at most ``shares[c]`` times."""
    batches = most_batches(shares, classes)
    owners = torch.arange(len(shares)).repeat_interleave(torch.tensor(shares).clamp(max=batches))
    kept = owners[torch.randperm(len(owners), generator=generator)[: batches * classes]]
    left = torch.bincount(kept, minlength=len(shares))
    found = torch.empty(batches, classes, dtype=torch.int64)
    for batch in range(batches):
        keys = torch.rand(len(shares), generator=generator, dtype=torch.float64) ** (1 / left)
        keys[left == 0] = -1.0
        keys[left == batches - batch] = 2.0  # whoever is due in all batches that are left
        found[batch] = keys.topk(classes).indices
        left[found[batch]] -= 1
    return found


def arranged(members: Sequence[Tensor], classes: int, rows_of_each: int, generator: torch.Generator) -> Tensor:
    """The places of one round, batch after batch, [B P K]; ``members`` are the places of each class."""
    shuffled = [own[torch.randperm(len(own), generator=generator)] for own in members]
    met = classes_of_batches([len(own) // rows_of_each for own in members], classes, generator)
    used = [0] * len(members)
    parts = []
    for number in met.flatten().tolist():
        parts.append(shuffled[number][used[number] : used[number] + rows_of_each])
        used[number] += rows_of_each
    return torch.cat(parts)


@dataclass(frozen=True)
class ClassBatches:
    """``rows_of_each`` rows of each of ``classes`` classes in a batch; ``column`` holds a row's class."""

    classes: int = 4
    rows_of_each: int = 5
    column: str = "label"

    def __post_init__(self) -> None:
        for name, value in {"classes": self.classes, "rows_of_each": self.rows_of_each}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")

    @property
    def block(self) -> int:
        """Rows of one batch."""
        return self.classes * self.rows_of_each

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """Chooses the rows of all classes that have enough of them; a row's score is the size of its class."""
        of_class: dict[Any, list[int]] = {}
        for place, label in enumerate(column(data, self.column, "selected", "class_batches")):
            of_class.setdefault(label, []).append(place)
        enough = [places for places in of_class.values() if len(places) >= self.rows_of_each]
        if len(enough) < self.classes:
            raise ValueError(
                f"Only {len(enough)} classes have {self.rows_of_each} rows, too few for {self.classes} in a batch; "
                "lower classes or rows_of_each."
            )
        score = torch.zeros(len(data))
        for places in of_class.values():
            score[places] = float(len(places))
        index = torch.tensor(sorted(place for places in enough for place in places))
        members = [torch.searchsorted(index, torch.tensor(places)) for places in enough]
        arrange = partial(arranged, members, self.classes, self.rows_of_each)
        batches = most_batches([len(places) // self.rows_of_each for places in enough], self.classes)
        return Selection(index, torch.ones(len(index)), score, Order(arrange, batches * self.block, self.block))


METHOD = ClassBatches
