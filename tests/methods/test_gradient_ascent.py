"""Gradient ascent is cross-entropy with the other sign, in value and gradient, and has no lower bound."""

import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.gradient_ascent import GradientAscent, gradient_ascent


def case():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    rows = [{"inputs": torch.randn(4), "label": i % 3} for i in range(6)]
    (batch,) = Classifier(3).roles(forget=rows).window(0, 6, seed=0)
    return model, batch


def test_the_negative_of_cross_entropy():
    model, batch = case()
    up, down = (evaluate(on("forget", m), model, batch).total for m in (GradientAscent(), CrossEntropy()))
    assert up.item() == -down.item() < 0
    for a, b in zip(torch.autograd.grad(up, model.parameters()), torch.autograd.grad(down, model.parameters())):
        assert torch.equal(a, -b)


def test_unbounded_with_a_constant_slope():
    logp = torch.tensor([-1.0, -100.0, -1e6], dtype=torch.float64, requires_grad=True)
    loss = gradient_ascent(logp)
    loss.sum().backward()
    assert loss.tolist() == [-1.0, -100.0, -1e6]
    assert logp.grad.tolist() == [1.0, 1.0, 1.0]


def test_a_step_makes_the_forget_set_less_likely():
    model, batch = case()
    before = float(evaluate(on("forget", CrossEntropy()), model, batch).total.detach())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        evaluate(on("forget", GradientAscent()), model, batch).total.backward()
        optimizer.step()
    assert float(evaluate(on("forget", CrossEntropy()), model, batch).total.detach()) > before + 0.5
