"""One row in fifty is of the rare class: at threshold one half, Dice finds more of them than cross-entropy."""

import torch
from torch import nn

from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.dice import Dice
from palimpsest.views import LabelView


def gaussians(seed, rows=8000):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=generator) < 0.02).long()
    return torch.randn(rows, 5, generator=generator) + 0.9 * labels[:, None], labels


def f1(objective, seed):
    """Of the rare class on new rows, after training a linear model."""
    (inputs, labels), (new_inputs, new_labels) = gaussians(seed), gaussians(seed + 1000)
    torch.manual_seed(seed)
    model = nn.Linear(5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(120):
        rows = torch.randint(0, len(inputs), (512,))
        loss = objective(LabelView({"labels": labels[rows]}, model(inputs[rows]))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = model(new_inputs).argmax(1)
    return 2 * float((said & new_labels).sum()) / max(1, int((said + new_labels).sum()))


def test_finds_more_of_a_rare_class():
    gains = {"plain": [], "self-adjusting": []}
    for seed in (0, 1):
        baseline = f1(CrossEntropy(), seed)
        for name, alpha in (("plain", 0.0), ("self-adjusting", 0.01)):
            found = f1(Dice("batch", alpha=alpha, positive=1), seed)
            assert found > 0.3  # do nothing: about 0.04
            gains[name].append(found - baseline)
    assert all(sum(found) / 2 > 0.05 for found in gains.values()), gains
