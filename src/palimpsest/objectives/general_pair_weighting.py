"""Any loss on pairs of rows as what it does: how strongly it pulls at each pair.

    L_i = sum_(j in N_i) w_ij S_ij - sum_(j in P_i) w_ij S_ij,    w_ij = |dL/dS_ij| held constant

    contrastive          w+ = 1;  w- = 1 where S > margin
    triplet              w  = the number of the anchor's triplets with S- > S+ - margin that the pair is in
    lifted_structure     w+ = e^(-S) / sum_P e^(-S);  w- = e^S / sum_N e^S;  both where the anchor's hinge is open,
                         log sum_P e^(margin - S) + log sum_N e^S > 0
    binomial_deviance    w+ = (alpha / |P|) sigmoid(alpha (pivot - S));  w- = (beta / |N|) sigmoid(beta (S - pivot))
    multi_similarity     w+ = e^(-alpha (S - pivot)) / (1 + sum_P e^(-alpha (S - pivot)));  w- likewise, beta and N

S_ij is the cosine of two rows' features, P_i are the other rows of i's class and N_i the rows of other classes.  The
gradient is that of the loss with the same name; the value is not that loss.

Paper: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning (Wang et al., 2019), arXiv 1904.06627.
Code: none.
Tags: learn, loss, retrieval, classifier.
Needs: the features of a classifier (``Classifier(features=…)``), and batches with several rows of a class.
Differs: binomial deviance is weighted by alpha and beta, the derivatives of its softplus terms. Features are brought to
    unit length here. An anchor without a positive or without a negative has no triplets and no lifted structure.
See: ``multi_similarity`` (the loss itself, with its value).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives._pairs import Pairs, log_one_plus_sum, log_sum, mined, over_pairs, weighted
from palimpsest.views import LabelView, Unit

__all__ = [
    "METHOD",
    "GeneralPairWeighting",
    "binomial_deviance_weights",
    "contrastive_weights",
    "lifted_structure_weights",
    "multi_similarity_weights",
    "triplet_weights",
]

Weighting = Literal["contrastive", "triplet", "lifted_structure", "binomial_deviance", "multi_similarity"]


def contrastive_weights(pairs: Pairs, margin: float) -> Tensor:
    """Every positive, and every negative that is more similar than ``margin``, counts alike, [B, B]."""
    return (pairs.positive | (pairs.negative & (pairs.constant > margin))).to(pairs.similarity)


def triplet_weights(pairs: Pairs, margin: float) -> Tensor:
    """In how many triplets with a positive loss each pair is, [B, B].

    Sorted rows are searched, so that no [B, B, B] is made.
    """
    similarity = pairs.constant.contiguous()
    negatives = similarity.masked_fill(~pairs.negative, -torch.inf).sort(1).values
    positives = similarity.masked_fill(~pairs.positive, torch.inf).sort(1).values
    nearer = similarity.shape[1] - torch.searchsorted(negatives, similarity - margin, right=True)
    farther = torch.searchsorted(positives, similarity + margin)
    return (nearer * pairs.positive + farther * pairs.negative).to(similarity)


def lifted_structure_weights(pairs: Pairs, margin: float) -> Tensor:
    """A softmax over each anchor's negatives and one over its positives, [B, B], where its hinge is open."""
    similarity = pairs.constant
    far, near = log_sum(margin - similarity, pairs.positive), log_sum(similarity, pairs.negative)  # [B]
    open_hinge = (far + near > 0).unsqueeze(1)  # [B, 1]; -inf where either kind is missing
    positive = (margin - similarity - far.unsqueeze(1)).exp()
    negative = (similarity - near.unsqueeze(1)).exp()
    return _by_kind(pairs, positive, negative).masked_fill(~open_hinge, 0.0)


def binomial_deviance_weights(pairs: Pairs, alpha: float, beta: float, pivot: float) -> Tensor:
    """Each pair by its own similarity alone, averaged over the anchor's pairs of its kind, [B, B]."""
    apart = pairs.constant - pivot
    positive = alpha * torch.sigmoid(-alpha * apart) / pairs.positive.sum(1, keepdim=True).clamp_min(1)
    negative = beta * torch.sigmoid(beta * apart) / pairs.negative.sum(1, keepdim=True).clamp_min(1)
    return _by_kind(pairs, positive, negative)


def multi_similarity_weights(pairs: Pairs, alpha: float, beta: float, pivot: float) -> Tensor:
    """Each pair by its similarity and beside the anchor's others of its kind, [B, B]; a kind sums to less than 1."""
    apart = pairs.constant - pivot
    near = log_one_plus_sum(-alpha * apart, pairs.positive).unsqueeze(1)  # [B, 1]
    far = log_one_plus_sum(beta * apart, pairs.negative).unsqueeze(1)
    return _by_kind(pairs, (-alpha * apart - near).exp(), (beta * apart - far).exp())


def _by_kind(pairs: Pairs, positive: Tensor, negative: Tensor) -> Tensor:
    """The one on positive pairs, the other on negative ones, 0 elsewhere."""
    return torch.where(pairs.positive, positive, torch.where(pairs.negative, negative, torch.zeros_like(negative)))


@dataclass(frozen=True)
class GeneralPairWeighting(Objective):
    """``weighting`` names the loss; the first three take ``margin``, the last two ``alpha``, ``beta`` and ``pivot``.

    ``mining_margin`` None keeps all pairs.
    """

    weighting: Weighting = "multi_similarity"
    margin: float = 0.5
    alpha: float = 2.0
    beta: float = 50.0
    pivot: float = 0.5
    mining_margin: float | None = None

    unit: ClassVar[Unit] = "example"
    couples: ClassVar[bool] = True
    ranks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in {"alpha": self.alpha, "beta": self.beta}.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number above 0, not {value}.")

    def weights(self, pairs: Pairs) -> Tensor:
        """The constant weights of ``pairs``, [B, B], at least 0."""
        match self.weighting:
            case "contrastive":
                return contrastive_weights(pairs, self.margin)
            case "triplet":
                return triplet_weights(pairs, self.margin)
            case "lifted_structure":
                return lifted_structure_weights(pairs, self.margin)
            case "binomial_deviance":
                return binomial_deviance_weights(pairs, self.alpha, self.beta, self.pivot)
            case "multi_similarity":
                return multi_similarity_weights(pairs, self.alpha, self.beta, self.pivot)

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per anchor, of either sign."""
        return over_pairs(view, self._of)

    def _of(self, pairs: Pairs) -> Tensor:
        if self.mining_margin is not None:
            pairs = mined(pairs, self.mining_margin)
        return weighted(pairs, self.weights(pairs))


METHOD = GeneralPairWeighting
