"""One row in fifty is of the rare class: what a miss costs decides how many of them are found, and at what price."""

import torch
from torch import nn

from palimpsest.objectives.tversky import Tversky
from palimpsest.views import LabelView


def gaussians(seed, rows=8000):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=generator) < 0.02).long()
    return torch.randn(rows, 5, generator=generator) + 0.9 * labels[:, None], labels


def found_and_right(misses, seed):
    """Recall and precision of the rare class on new rows, after training a linear model."""
    (inputs, labels), (new_inputs, new_labels) = gaussians(seed), gaussians(seed + 1000)
    torch.manual_seed(seed)
    model = nn.Linear(5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    objective = Tversky("batch", false_alarms=1 - misses, misses=misses, positive=1)
    for _ in range(120):
        rows = torch.randint(0, len(inputs), (512,))
        loss = objective(LabelView({"labels": labels[rows]}, model(inputs[rows]))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = model(new_inputs).argmax(1)
    both = float((said & new_labels).sum())
    return both / int(new_labels.sum()), both / max(1, int(said.sum()))


def test_the_dearer_a_miss_the_more_is_found_and_the_less_of_it_is_right():
    for seed in (0, 1):
        (some, right), (most, less_right) = (found_and_right(misses, seed) for misses in (0.2, 0.9))
        assert most > some + 0.15 and right > less_right + 0.1, (some, most, right, less_right)
