"""Each weighting against the derivatives of the loss that it stands for, written as plain loops."""

import math

import pytest
import torch

from palimpsest.objectives._pairs import mined, pairs_of
from palimpsest.objectives.general_pair_weighting import GeneralPairWeighting
from palimpsest.objectives.multi_similarity import multi_similarity
from palimpsest.views import LabelView

DOUBLE = torch.float64
ALPHA, BETA, PIVOT = 2.0, 10.0, 0.4


def random(rows=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 4, generator=generator, dtype=DOUBLE)
    return features, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4][:rows])


def each(similarity, labels, i):
    """The similarities of anchor i to its own class and to the others."""
    own = [similarity[i, j] for j in range(len(labels)) if j != i and labels[j] == labels[i]]
    other = [similarity[i, j] for j in range(len(labels)) if labels[j] != labels[i]]
    return own, other


def contrastive(own, other, margin):
    return sum((1 - s for s in own), start=torch.zeros((), dtype=DOUBLE)) + sum((s - margin).relu() for s in other)


def triplet(own, other, margin):
    zero = torch.zeros((), dtype=DOUBLE)
    return sum(((n - p + margin).relu() for p in own for n in other), start=zero)


def lifted_structure(own, other, margin):
    if not own or not other:
        return torch.zeros((), dtype=DOUBLE)
    return ((margin - torch.stack(own)).logsumexp(0) + torch.stack(other).logsumexp(0)).relu()


def binomial_deviance(own, other, margin):
    loss = torch.zeros((), dtype=DOUBLE)
    if own:
        loss = loss + torch.log1p((ALPHA * (PIVOT - torch.stack(own))).exp()).mean()
    return loss + torch.log1p((BETA * (torch.stack(other) - PIVOT)).exp()).mean()


LOSSES = {
    "contrastive": (contrastive, 0.1),
    "triplet": (triplet, 0.2),
    "lifted_structure": (lifted_structure, -1.0),  # some hinges open, some shut
    "binomial_deviance": (binomial_deviance, 0.0),
}


@pytest.mark.parametrize("weighting", list(LOSSES))
def test_the_gradient_is_that_of_the_loss(weighting):
    loss, margin = LOSSES[weighting]
    features, labels = random()
    features.requires_grad_()
    similarity = pairs_of(features, labels).similarity
    values = torch.stack([loss(*each(similarity, labels, i), margin) for i in range(len(labels))])
    assert (values > 0).any() and (weighting != "lifted_structure" or (values == 0).any())
    (expected,) = torch.autograd.grad(values.sum(), features)
    objective = GeneralPairWeighting(weighting, margin=margin, alpha=ALPHA, beta=BETA, pivot=PIVOT)
    (found,) = torch.autograd.grad(objective(LabelView({"labels": labels}, features, features)).sum(), features)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("margin", [None, 0.1])
def test_multi_similarity(margin):
    features, labels = random()
    features.requires_grad_()
    pairs = pairs_of(features, labels)
    pairs = pairs if margin is None else mined(pairs, margin)
    pairs.similarity.retain_grad()
    multi_similarity(pairs, 2.0, 50.0, 0.5).sum().backward()
    objective = GeneralPairWeighting("multi_similarity", mining_margin=margin)
    weights = objective.weights(pairs)
    torch.testing.assert_close(pairs.similarity.grad, weights * (pairs.negative.double() - pairs.positive.double()))
    (found,) = torch.autograd.grad(objective(LabelView({"labels": labels}, features, features)).sum(), features)
    torch.testing.assert_close(found, features.grad, rtol=1e-10, atol=1e-12)
    for kind in (pairs.positive, pairs.negative):
        assert ((weights * kind).sum(1) < 1).all()


def test_sums_of_weights():
    features, labels = random()
    pairs = pairs_of(features, labels)
    lifted = GeneralPairWeighting("lifted_structure", margin=5.0).weights(pairs)
    there = pairs.positive.any(1)
    torch.testing.assert_close((lifted * pairs.positive).sum(1), there.double())
    torch.testing.assert_close((lifted * pairs.negative).sum(1), there.double())
    at_pivot = GeneralPairWeighting("binomial_deviance", beta=30.0, pivot=float(pairs.similarity[0, 3])).weights(pairs)
    assert float(at_pivot[0, 3]) == pytest.approx(30 / (2 * int(pairs.negative[0].sum())))


def test_triplets_are_counted():
    features, labels = random(rows=9, seed=3)
    pairs = pairs_of(features, labels)
    weights = GeneralPairWeighting("triplet", margin=0.3).weights(pairs)
    s = pairs.similarity
    for i in range(9):
        for j in range(9):
            if pairs.positive[i, j]:
                count = sum(bool(pairs.negative[i, n] and s[i, n] > s[i, j] - 0.3) for n in range(9))
            elif pairs.negative[i, j]:
                count = sum(bool(pairs.positive[i, p] and s[i, p] < s[i, j] + 0.3) for p in range(9))
            else:
                count = 0
            assert int(weights[i, j]) == count


@pytest.mark.parametrize("labels", [torch.zeros(6).long(), torch.arange(6)])
@pytest.mark.parametrize("weighting", [*LOSSES, "multi_similarity"])
def test_a_single_class_or_all_different(weighting, labels):
    features = random(rows=6)[0].requires_grad_()
    loss = GeneralPairWeighting(weighting, mining_margin=0.1)(LabelView({"labels": labels}, features, features))
    loss.sum().backward()
    assert (loss == 0).all() and torch.isfinite(features.grad).all()
    every = GeneralPairWeighting(weighting)(LabelView({"labels": labels}, features, features))
    assert torch.isfinite(every).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match="beta must be a finite number above 0"):
        GeneralPairWeighting(beta=bad)
