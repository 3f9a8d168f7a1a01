"""Most rows say what is known already: playing down low losses learns the rest in fewer steps."""

import torch
from torch import nn

from palimpsest.objective import Objective
from palimpsest.objectives.reweighted import Reweighted
from palimpsest.views import LabelView

MOST = 600


class Squared(Objective):
    """The squared error of each row."""

    unit = "example"

    def __call__(self, view, state=None):
        return (view.logits[:, 0] - view.batch["target"]) ** 2


def steps(objective, seed):
    """Until the error on rows of all dimensions is a twentieth of the first."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(30, generator=generator)

    def rows(count, redundant):
        inputs = torch.randn(count, 30, generator=generator)
        known = torch.rand(count, generator=generator) < redundant
        inputs[known, 3:] = 0
        return inputs, inputs @ truth

    inputs, target = rows(300, 0.0)
    model = nn.Linear(30, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for step in range(MOST):
        x, y = rows(32, 0.9)
        loss = objective(LabelView({"target": y}, model(x))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float((model(inputs)[:, 0] - target).square().mean().detach()) < 0.05 * float(target.square().mean()):
            return step + 1
    return MOST


def test_linupper_is_faster_where_most_is_redundant():
    uniform = steps(Squared(), 0)
    assert steps(Reweighted(Squared(), "linupper", temperature=0.4), 0) < 0.6 * uniform
    assert steps(Reweighted(Squared(), "extremes", temperature=0.4), 0) > uniform
