"""Trains on a soft F1 score instead of accuracy, for classes that are rare among many others.

    w_ic = (1 - p_ic)^alpha p_ic
    example:  L_i = sum_c [1 - (2 w_ic y_ic + smooth) / (w_ic^2 + y_ic^2 + smooth)]
    batch:    L   = sum_c [1 - (2 sum_i w_ic y_ic + smooth) / (sum_i w_ic^2 + sum_i y_ic^2 + smooth)]

p_ic is the probability of class c for item i, y_ic is 1 for its own class and 0 for the others.  With alpha 0, smooth 0
and certain predictions a class's term is one minus its F1 score.  ``square_denominator=False`` takes w + y for the
squares; ``positive`` keeps the term of one class, so that two classes make the sigmoid form for binary tasks.

Paper: Dice Loss for Data-imbalanced NLP Tasks (Li et al., 2019), arXiv 1911.02855.
Code: ShannonAI/dice_loss_for_NLP (loss/dice_loss.py, DiceLoss).
Tags: learn, loss, imbalance, classifier, language-model.
Needs: nothing. Over a batch, rows that hold the rare class.
Differs: alpha is 0.01 as in the released scripts; the paper's displayed alpha of 1 punishes correct answers that are
    sure (the best p is 1 / (1 + alpha)) and lets sure false alarms pass, so above 0.2 a warning is given.
    ``focal`` is ours: the factor is constant in the backward, and p^alpha for the other classes. The released code sums
    the denominator over the batch and the numerator over an item when the denominator is linear, keeps two hard
    negatives fewer than asked for, and counts masked rows in the mean; here the granularity is named, the hardest
    negatives are counted right (of each class, in proportion to its own positives), and what is masked does not count.
    A one-logit head is a head of two classes with ``positive=1``.
See: ``tversky`` (prices for false alarms and misses), ``cross_entropy``; a decision threshold tuned on held-out data,
    which gives most of the gain as well.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives._labels import checked_classes, over_labels
from palimpsest.views import LabelView, TokenView

__all__ = ["METHOD", "Dice", "adjusted", "dice", "hardest", "log_complement"]

Granularity = Literal["example", "batch"]


def log_complement(log_probs: Tensor) -> Tensor:
    """log(1 - p) from log p, [N, C] -> [N, C], where the last dimension sums to one.

    Of the likeliest class it is the log of the others' sum: 1 - p itself rounds to 0 for a prediction that is sure.
    """
    likeliest = F.one_hot(log_probs.argmax(-1), log_probs.shape[-1]).bool()  # [N, C]
    others = log_probs.masked_fill(likeliest, -torch.inf).logsumexp(-1, keepdim=True)  # [N, 1]
    at_most_half = log_probs.masked_fill(likeliest, -1.0)  # [N, C], any value where it is not used
    return torch.where(likeliest, others, torch.log1p(-at_most_half.exp()))


def adjusted(log_probs: Tensor, own: Tensor, alpha: float, focal: bool = False) -> Tensor:
    """(1 - p)^alpha p, [N, C]; with ``focal`` a constant factor, (1 - p)^alpha where ``own`` and p^alpha elsewhere."""
    if alpha == 0:
        return log_probs.exp()
    if focal:
        factor = torch.where(own, log_complement(log_probs), log_probs).detach() * alpha
        return (factor + log_probs).exp()
    return (alpha * log_complement(log_probs) + log_probs).exp()


def hardest(log_probs: Tensor, own: Tensor, ratio: float) -> Tensor:
    """Which items count for which class, bool [N, C]: its own, and of the others the likeliest to be taken for it.

    Of those, ``ratio`` for each of the class's own items, rounded and at least one; none where it has no own.
    """
    number = own.sum(0)  # [C]
    quota = (ratio * number).round().clamp_min(1) * (number > 0)
    likely = log_probs.detach().masked_fill(own, -torch.inf)  # [N, C]
    rank = likely.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    return own | (rank < quota)  # never an own item among the first: they come last, and count anyway


def dice(
    log_probs: Tensor,
    labels: Tensor,
    *,
    granularity: Granularity = "example",
    square_denominator: bool = True,
    alpha: float = 0.01,
    smooth: float = 1.0,
    positive: int | None = None,
    hard_negatives: float = 0.0,
    focal: bool = False,
) -> Tensor:
    """The equations above on log-probabilities [N, C] and classes [N]: one value per item, [N].

    Over a batch every item carries the loss of the whole.
    """
    own = F.one_hot(labels, log_probs.shape[-1]).bool()  # [N, C]
    weight = adjusted(log_probs, own, alpha, focal)  # [N, C]
    kept = hardest(log_probs, own, hard_negatives) if hard_negatives else torch.ones_like(own)
    weight, target = weight * kept, (own & kept).to(weight.dtype)
    if positive is not None:
        weight, target = weight[:, positive : positive + 1], target[:, positive : positive + 1]
    both = 2 * weight * target
    size = weight**2 + target if square_denominator else weight + target  # the square of 1 is 1
    if granularity == "batch":
        both, size = both.sum(0, keepdim=True), size.sum(0, keepdim=True)  # [1, C]
    loss = 1 - (both + smooth) / (size + smooth)  # [N, C] or [1, C]; 0 for what was not kept
    return loss.sum(1).expand(len(labels))


@dataclass(frozen=True)
class Dice(Objective):
    """``granularity`` is the set whose F1 score is meant, ``positive`` the only class that is to be found, if any.

    ``alpha`` plays down what is easy, ``hard_negatives`` (0: all count) is how many of the others count per own item.
    """

    granularity: Granularity = "example"
    square_denominator: bool = True
    alpha: float = 0.01
    smooth: float = 1.0
    positive: int | None = None
    hard_negatives: float = 0.0
    focal: bool = False

    def __post_init__(self) -> None:
        if self.granularity not in ("example", "batch"):
            raise ValueError(f"granularity is 'example' or 'batch', not {self.granularity!r}.")
        if not (self.smooth > 0 and math.isfinite(self.smooth)):
            raise ValueError(f"smooth must be above 0, not {self.smooth}; without it negatives teach nothing.")
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha must be at least 0, not {self.alpha}; 0 is the plain Dice loss.")
        if not (self.hard_negatives >= 0 and math.isfinite(self.hard_negatives)):
            raise ValueError(f"hard_negatives must be at least 0, not {self.hard_negatives}; 0 lets all count.")
        if self.positive is not None and self.positive < 0:
            raise ValueError(f"positive is a class number from 0, not {self.positive}.")
        if self.alpha > 0.2 and not self.focal:
            warnings.warn(
                f"With alpha {self.alpha} the Dice loss is least at p = {1 / (1 + self.alpha):.2f} and grows above it; "
                "take 0.01, or focal=True.",
                stacklevel=3,
            )

    @property
    def couples(self) -> bool:  # type: ignore[override]
        """Over a batch, and where the hardest items of a batch are chosen, its rows depend on each other."""
        return self.granularity == "batch" or self.hard_negatives > 0

    @property
    def ranks(self) -> bool:  # type: ignore[override]
        """Over a batch all items carry its one value."""
        return self.granularity != "batch"

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B] for labels, [B, T-1] for tokens."""
        return over_labels(view, self._of)

    def _of(self, log_probs: Tensor, labels: Tensor) -> Tensor:
        checked_classes("Dice", log_probs, self.positive)
        return dice(
            log_probs,
            labels,
            granularity=self.granularity,
            square_denominator=self.square_denominator,
            alpha=self.alpha,
            smooth=self.smooth,
            positive=self.positive,
            hard_negatives=self.hard_negatives,
            focal=self.focal,
        )


METHOD = Dice
