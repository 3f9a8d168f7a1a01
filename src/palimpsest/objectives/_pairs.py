"""Pairs of a batch's rows: what losses that compare rows with each other have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.views import LabelView

__all__ = ["Pairs", "log_one_plus_sum", "log_sum", "mined", "over_pairs", "pairs_of", "weighted"]


@dataclass(frozen=True)
class Pairs:
    """Row i is an anchor, column j the row it is compared with; a row is never paired with itself."""

    similarity: Tensor  # [B, B] cosines, at least float32
    positive: Tensor  # [B, B] bool, of the same class
    negative: Tensor  # [B, B] bool, of another class

    @property
    def constant(self) -> Tensor:
        """[B, B] the similarities without their gradient."""
        return self.similarity.detach()


def pairs_of(features: Tensor, labels: Tensor) -> Pairs:
    """All pairs of the rows of ``features`` [B, D] (or [B, ...], flattened) with ``labels`` [B]."""
    if len(features) != len(labels):
        raise ValueError(f"There are {len(features)} rows of features for {len(labels)} labels; give one label a row.")
    rows = features.flatten(1)
    rows = F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)
    same = labels.unsqueeze(1) == labels.unsqueeze(0)  # [B, B]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return Pairs(rows @ rows.T, same & ~itself, ~same)


def over_pairs(view: LabelView, loss: Callable[[Pairs], Tensor]) -> Tensor:
    """``loss`` of all pairs of the view's rows, [B]; a row that the model answers several times is in them once."""
    features, answers = view.features, view.answers
    return loss(pairs_of(features[::answers], view.labels[::answers])).repeat_interleave(answers)


def mined(pairs: Pairs, margin: float) -> Pairs:
    """Keeps what is hard beside the opposite kind: negatives nearer than the farthest positive, less ``margin``, and
    positives farther than the nearest negative, plus ``margin``.  An anchor without either kind keeps nothing.
    """
    similarity = pairs.constant
    farthest = similarity.masked_fill(~pairs.positive, torch.inf).amin(1, keepdim=True)  # [B, 1]
    nearest = similarity.masked_fill(~pairs.negative, -torch.inf).amax(1, keepdim=True)  # [B, 1]
    return replace(
        pairs,
        positive=pairs.positive & (similarity < nearest + margin),
        negative=pairs.negative & (similarity > farthest - margin),
    )


def log_sum(exponent: Tensor, kept: Tensor) -> Tensor:
    """log of the sum of e^exponent over the kept columns, [B, B] -> [B]; -inf for a row that keeps none."""
    return exponent.masked_fill(~kept, -torch.inf).logsumexp(1)


def log_one_plus_sum(exponent: Tensor, kept: Tensor) -> Tensor:
    """log(1 + sum of e^exponent over the kept columns), [B, B] -> [B]; 0 for a row that keeps none."""
    one = exponent.new_zeros(len(exponent), 1)
    return torch.cat([one, exponent.masked_fill(~kept, -torch.inf)], 1).logsumexp(1)


def weighted(pairs: Pairs, weights: Tensor) -> Tensor:
    """sum_j w_ij S_ij over negatives minus that over positives, [B], the weights [B, B] constant.

    Its gradient is that of any loss of the similarities whose derivatives have the sizes w_ij.
    """
    sign = pairs.negative.to(weights) - pairs.positive.to(weights)
    return (sign * weights.detach() * pairs.similarity).sum(1)
