"""Draws rows of one class together and others apart, looking at the pairs that are hard and most at the hardest.

    L_i = (1 / alpha) log[1 + sum_(j in P_i) e^(-alpha (S_ij - pivot))]
        + (1 / beta)  log[1 + sum_(j in N_i) e^(beta (S_ij - pivot))]

S_ij is the cosine of two rows' features.  P_i are the rows of i's class that are less similar to it than its most
similar row of another class plus the mining margin, N_i the rows of other classes that are more similar than its least
similar row of the own class minus the margin.

Paper: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning (Wang et al., 2019), arXiv 1904.06627.
Code: msight-tech/research-ms-loss (ret_benchmark/losses/multi_similarity_loss.py).
Tags: learn, loss, retrieval, classifier.
Needs: the features of a classifier (``Classifier(features=…)``), and batches with several rows of a class.
Differs: pivot 0.5 as in the released code, where the paper has 1; beta 50 as in the paper, where the released code has
    40. Features are brought to unit length here. The released code drops pairs of equal rows along with each row's pair
    with itself, fails for an anchor without a positive or a negative, and gives no gradient where nothing is kept;
    here only the pair with itself is left out, and such anchors count as 0. The mean is over all anchors.
See: ``general_pair_weighting`` (its weights, and those of other pair losses), ``cross_entropy``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives._pairs import Pairs, log_one_plus_sum, mined, over_pairs
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "MultiSimilarity", "multi_similarity"]


def multi_similarity(pairs: Pairs, alpha: float, beta: float, pivot: float) -> Tensor:
    """The equation on the pairs that are kept, [B], at least 0."""
    near = log_one_plus_sum(-alpha * (pairs.similarity - pivot), pairs.positive)
    far = log_one_plus_sum(beta * (pairs.similarity - pivot), pairs.negative)
    return near / alpha + far / beta


@dataclass(frozen=True)
class MultiSimilarity(Objective):
    """``alpha`` and ``beta`` are how sharply the hardest positives and negatives count, ``pivot`` the similarity that
    parts them; ``mining_margin`` None keeps all pairs."""

    alpha: float = 2.0
    beta: float = 50.0
    pivot: float = 0.5
    mining_margin: float | None = 0.1

    unit: ClassVar[Unit] = "example"
    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in {"alpha": self.alpha, "beta": self.beta}.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number above 0, not {value}.")

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per anchor."""
        return over_pairs(view, self._of)

    def _of(self, pairs: Pairs) -> Tensor:
        if self.mining_margin is not None:
            pairs = mined(pairs, self.mining_margin)
        return multi_similarity(pairs, self.alpha, self.beta, self.pivot)


METHOD = MultiSimilarity
