"""Random labels are uniform, fresh in every round, the same for any batch split, and never the true one if asked."""

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.objective import evaluate, on
from palimpsest.objectives.random_label import RandomLabel, random_labels
from palimpsest.roles import seeded

CLASSES = 5


def draws(n):
    return torch.tensor([seeded(0, "forget", 0, i) for i in range(n)])


def case(rows=40):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, CLASSES)
    data = [{"inputs": torch.randn(3), "label": i % CLASSES} for i in range(rows)]
    return model, Classifier(CLASSES).roles(forget=data)


@pytest.mark.parametrize("exclude_true", [False, True])
def test_uniform_over_the_classes(exclude_true):
    n = 20_000
    labels = torch.arange(n) % CLASSES
    found = random_labels(draws(n), labels, CLASSES, exclude_true)
    offset = (found - labels) % CLASSES  # how far from the true class: each equally often
    counts = torch.bincount(offset, minlength=CLASSES).double()
    if exclude_true:
        assert counts[0] == 0
        counts = counts[1:]
    expected = n / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 99.9 % quantile at 4 degrees of freedom


def test_by_hand():
    draw, labels = torch.tensor([0, 7, 11, 12]), torch.tensor([0, 0, 2, 1])
    assert random_labels(draw, labels, 4).tolist() == [0, 3, 3, 0]
    assert random_labels(draw, labels, 4, exclude_true=True).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_is_the_cross_entropy_of_the_drawn_labels(dtype):
    model, roles = case()
    (batch,) = roles.window(0, 8, seed=3)
    columns = {**batch["forget"], "inputs": batch["forget"]["inputs"].to(dtype)}
    view = batch.adapter.views(model.to(dtype), {"forget": columns}, ["forget"])["forget"]
    found = RandomLabel()(view)
    for i in range(8):
        drawn = int(columns["draw"][i]) % CLASSES
        expected = torch.nn.functional.cross_entropy(view.logits[i : i + 1].double(), torch.tensor([drawn]))
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_drawn_afresh_in_every_round_and_reproducible():
    _, roles = case()

    def labels_of_round(r):
        (batch,) = roles.window(r, 40, seed=0)
        order = batch["forget"]["index"].argsort()
        return random_labels(batch["forget"]["draw"], batch["forget"]["labels"], CLASSES)[order]

    first, second = labels_of_round(0), labels_of_round(1)
    assert torch.equal(first, labels_of_round(0))
    assert 0.05 < float((first == second).float().mean()) < 0.5  # by chance 1 in 5


def test_the_batch_split_changes_nothing():
    model, roles = case()
    total = on("forget", RandomLabel(exclude_true=True))
    (whole,) = roles.window(2, 8, seed=0)
    micro = roles.window(2, 8, seed=0, accumulation=4)
    counts = {("forget", "example"): 8.0}
    split = sum(evaluate(total, model, b, counts=counts).total for b in micro)
    torch.testing.assert_close(split, evaluate(total, model, whole).total)


def test_one_class_has_no_other_label():
    assert random_labels(torch.tensor([5]), torch.tensor([0]), 1).tolist() == [0]
    with pytest.raises(ValueError, match="needs at least two classes"):
        random_labels(torch.tensor([5]), torch.tensor([0]), 1, exclude_true=True)
