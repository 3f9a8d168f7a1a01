"""Trains on a soft F-score in which false alarms and misses have prices of their own.

    found_c = sum_i p_ic y_ic,    alarms_c = sum_i p_ic (1 - y_ic),    missed_c = sum_i (1 - p_ic) y_ic
    batch:    L = sum_c [1 - (found_c + smooth) / (found_c + a alarms_c + b missed_c + smooth)]
    example:  the same with the sums over the single item i

p_ic is the probability of class c for item i, y_ic is 1 for its own class and 0 for the others.  With smooth 0 and
certain predictions a class's term is one minus the F-score of that a and b: F1 at 1/2 and 1/2, the more of recall the
larger b.

Paper: Dice Loss for Data-imbalanced NLP Tasks (Li et al., 2019), arXiv 1911.02855, which takes it from Tversky Loss
    Function for Image Segmentation Using 3D Fully Convolutional Deep Networks (Salehi et al., 2017), arXiv 1706.05721.
Code: none.
Tags: learn, loss, imbalance, classifier, language-model.
Needs: nothing. Over a batch, rows that hold the rare class.
Differs: nothing known in the equation; the smoothing stands in the index itself, so that 1/2 is the Dice loss's 1.
    ``positive`` keeps the term of one class, as in ``dice``.
See: ``dice`` (a and b 1/2 with a linear denominator; plays down what is easy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives._labels import checked_classes, over_labels
from palimpsest.views import LabelView, TokenView

__all__ = ["METHOD", "Tversky", "tversky"]

Granularity = Literal["example", "batch"]


def tversky(
    log_probs: Tensor,
    labels: Tensor,
    *,
    granularity: Granularity = "example",
    false_alarms: float = 0.5,
    misses: float = 0.5,
    smooth: float = 0.5,
    positive: int | None = None,
) -> Tensor:
    """The equation on log-probabilities [N, C] and classes [N]: one value per item, [N].

    Over a batch every item carries the loss of the whole.
    """
    own = F.one_hot(labels, log_probs.shape[-1]).to(log_probs.dtype)  # [N, C]
    said, unsaid = log_probs.exp(), -log_probs.expm1()  # p and 1 - p
    if positive is not None:
        own, said, unsaid = (x[:, positive : positive + 1] for x in (own, said, unsaid))
    parts = (said * own, said * (1 - own), unsaid * own)
    found, alarms, missed = (x.sum(0, keepdim=True) for x in parts) if granularity == "batch" else parts
    loss = 1 - (found + smooth) / (found + false_alarms * alarms + misses * missed + smooth)  # [N, C] or [1, C]
    return loss.sum(1).expand(len(labels))


@dataclass(frozen=True)
class Tversky(Objective):
    """``false_alarms`` is a and ``misses`` is b; ``granularity`` is the set whose score is meant.

    ``positive`` is the only class that is to be found, if any.
    """

    granularity: Granularity = "example"
    false_alarms: float = 0.5
    misses: float = 0.5
    smooth: float = 0.5
    positive: int | None = None

    def __post_init__(self) -> None:
        if self.granularity not in ("example", "batch"):
            raise ValueError(f"granularity is 'example' or 'batch', not {self.granularity!r}.")
        if not (self.smooth > 0 and math.isfinite(self.smooth)):
            raise ValueError(f"smooth must be above 0, not {self.smooth}; without it negatives teach nothing.")
        for name, price in {"false_alarms": self.false_alarms, "misses": self.misses}.items():
            if not (price > 0 and math.isfinite(price)):
                raise ValueError(f"{name} must be a finite number above 0, not {price}; both at 0.5 are the Dice loss.")
        if self.positive is not None and self.positive < 0:
            raise ValueError(f"positive is a class number from 0, not {self.positive}.")

    @property
    def couples(self) -> bool:  # type: ignore[override]
        """Over a batch its rows depend on each other."""
        return self.granularity == "batch"

    @property
    def ranks(self) -> bool:  # type: ignore[override]
        """Over a batch all items carry its one value."""
        return self.granularity != "batch"

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B] for labels, [B, T-1] for tokens."""
        return over_labels(view, self._of)

    def _of(self, log_probs: Tensor, labels: Tensor) -> Tensor:
        checked_classes("Tversky", log_probs, self.positive)
        return tversky(
            log_probs,
            labels,
            granularity=self.granularity,
            false_alarms=self.false_alarms,
            misses=self.misses,
            smooth=self.smooth,
            positive=self.positive,
        )


METHOD = Tversky
