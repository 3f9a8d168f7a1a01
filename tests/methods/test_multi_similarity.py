"""The multi-similarity loss against the figures of its card and a plain loop."""

import math

import pytest
import torch

from palimpsest.objectives._pairs import mined, pairs_of
from palimpsest.objectives.multi_similarity import MultiSimilarity, multi_similarity
from palimpsest.views import LabelView

DOUBLE = torch.float64


def circle(degrees, dtype=DOUBLE):
    angle = torch.tensor(degrees, dtype=DOUBLE) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1).to(dtype)


FIVE, LABELS = [0, 20, 40, 60, 80], torch.tensor([0, 0, 1, 1, 2])


def value(features, labels, **fields):
    return MultiSimilarity(**fields)(LabelView({"labels": labels}, features, features))


def random(rows=12, classes=4, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=DOUBLE), torch.arange(rows) % classes


# 1. By hand


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-6), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_five_points_on_a_circle(dtype, tolerance):
    rows = circle(FIVE, dtype)
    every = value(rows, LABELS, mining_margin=None)
    assert every.tolist() == pytest.approx([0.439623, 0.613274, 0.613278, 0.613274, 0.439696], abs=tolerance)
    assert float(every.mean()) == pytest.approx(0.543829, abs=tolerance)


def test_five_points_mined():
    rows = circle(FIVE)
    found = value(rows, LABELS)
    assert found.tolist() == pytest.approx([0, 0.613271, 0.613271, 0.613271, 0], abs=1e-6)
    assert float(found.mean()) == pytest.approx(0.367962, abs=1e-6)
    assert float(value(rows, LABELS, beta=40.0).mean()) == pytest.approx(0.367962, abs=1e-6)
    assert float(value(rows, LABELS, pivot=1.0).mean()) == pytest.approx(0.227156, abs=1e-6)


# 2. Against a loop (against the peer: tests/golden)


@pytest.mark.parametrize("labels", [torch.arange(12) % 4, torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 7])])
def test_against_a_loop(labels):
    features, _ = random()
    unit = features / features.norm(dim=1, keepdim=True)
    expected = []
    for i in range(12):
        own = [float(unit[i] @ unit[j]) for j in range(12) if j != i and labels[j] == labels[i]]
        other = [float(unit[i] @ unit[j]) for j in range(12) if labels[j] != labels[i]]
        keep_own = [s for s in own if s < max(other) + 0.1]
        keep_other = [s for s in other if own and s > min(own) - 0.1]
        near = math.log1p(sum(math.exp(-2 * (s - 0.5)) for s in keep_own)) / 2
        expected.append(near + math.log1p(sum(math.exp(50 * (s - 0.5)) for s in keep_other)) / 50)
    assert value(features, labels).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


# 4. What must not matter


def test_a_large_margin_keeps_every_pair():
    features, labels = random()
    torch.testing.assert_close(value(features, labels, mining_margin=2.1), value(features, labels, mining_margin=None))


def test_order_rotation_and_length():
    features, labels = random()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)).Q
    long = features * torch.linspace(0.1, 9, 12, dtype=DOUBLE)[:, None]
    expected = value(features, labels)
    torch.testing.assert_close(value(features[order], labels[order]), expected[order])
    torch.testing.assert_close(value(features @ turn, labels), expected)
    torch.testing.assert_close(value(long, labels), expected)
    torch.testing.assert_close(value(features.view(12, 1, 5), labels), expected)  # of any shape


# 5. The limit of sharp weights


def test_the_limit_is_a_hinge_on_the_hardest():
    features, labels = random()
    pairs = mined(pairs_of(features, labels), 0.1)
    sharp = multi_similarity(pairs, 1e6, 1e6, 0.5)
    hardest_positive = pairs.similarity.masked_fill(~pairs.positive, 9.0).amin(1)
    hardest_negative = pairs.similarity.masked_fill(~pairs.negative, -9.0).amax(1)
    torch.testing.assert_close(
        sharp, (0.5 - hardest_positive).relu() + (hardest_negative - 0.5).relu(), rtol=0, atol=1e-4
    )


# 6. Batches in which nothing is to be compared


@pytest.mark.parametrize("labels", [torch.zeros(6).long(), torch.arange(6)])
def test_a_single_class_or_all_different(labels):
    features, _ = random(rows=6)
    features.requires_grad_()
    loss = value(features, labels)
    loss.sum().backward()
    assert (loss == 0).all() and (features.grad == 0).all()
    assert (value(features.detach(), labels, mining_margin=None) > 0).all()  # the lone kind stays


def test_one_row():
    features, _ = random(rows=1)
    features.requires_grad_()
    loss = value(features, torch.tensor([3]))
    loss.sum().backward()
    assert loss.tolist() == [0.0] and (features.grad == 0).all()


def test_well_separated_clusters_keep_nothing():
    rows = circle([0, 5, 120, 125, 240, 245])
    assert (value(rows, torch.tensor([0, 0, 1, 1, 2, 2])) == 0).all()


def test_equal_rows_are_a_pair():
    rows = circle([0, 0, 30])
    pairs = pairs_of(rows, torch.tensor([0, 0, 1]))
    assert pairs.positive.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_no_overflow_in_single_precision():
    rows = circle([0, 0.1, 180], torch.float32).requires_grad_()
    loss = value(rows, torch.tensor([0, 1, 0]), beta=500.0, pivot=-1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(rows.grad).all()


# 8. What is refused


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_settings_are_checked(name, bad):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0"):
        MultiSimilarity(**{name: bad})


def test_one_label_a_row():
    features, labels = random()
    with pytest.raises(ValueError, match="12 rows of features for 11 labels"):
        pairs_of(features, labels[:-1])


def test_a_model_without_features_is_told_how_to_name_them():
    view = LabelView({"labels": LABELS}, circle(FIVE))
    with pytest.raises(ValueError, match=r"model\.features in a recipe, Classifier\(features=\.\.\.\) in Python\."):
        MultiSimilarity()(view)
