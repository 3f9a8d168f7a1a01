"""Supervised contrastive loss: closed forms, a naive loop, anchors without a positive, the projection's own steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.augment import Augment
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.supervised_contrastive import SupervisedContrastive, supervised_contrastive
from palimpsest.roles import Derived, Roles

DOUBLE = torch.float64


def unit(rows, seed=0, dtype=DOUBLE):
    z = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return nn.functional.normalize(z, dim=1).to(dtype)


@pytest.mark.parametrize(
    ("temperature", "base", "expected"), [(1.0, 1.0, math.log(1 + 2 / math.e)), (0.1, 0.07, 1.2971e-4)]
)
def test_two_classes_at_right_angles(temperature, base, expected):
    """Oracle 1: e1, e2, e1, e2 with labels 0, 1, 0, 1."""
    z = torch.eye(2, dtype=DOUBLE).repeat(2, 1)
    loss = supervised_contrastive(z, torch.tensor([0, 1, 0, 1]), temperature, base)
    assert loss.mean().item() == pytest.approx(expected, rel=1e-4) and loss.std().item() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_naive_loop(dtype):
    z, labels = unit(7, dtype=dtype), [0, 1, 0, 2, 1, 0, 1]
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    found = supervised_contrastive(z, torch.tensor(labels), 0.5, 0.07)
    z = z.double()
    for i in range(7):
        others = [j for j in range(7) if j != i]
        bottom = sum(math.exp(float(z[i] @ z[a]) / 0.5) for a in others)
        positive = [p for p in others if labels[p] == labels[i]]
        own = [math.log(math.exp(float(z[i] @ z[p]) / 0.5) / bottom) for p in positive]
        expected = -0.5 / 0.07 * sum(own) / len(own) if own else 0.0
        assert float(found[i]) == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_an_anchor_without_a_positive_counts_zero_and_stays_in_the_mean():
    z = unit(4).requires_grad_()
    loss = supervised_contrastive(z, torch.tensor([0, 0, 1, 2]), 0.1, 0.07)
    loss.mean().backward()
    assert loss[2] == loss[3] == 0 and (loss[:2] > 0).all() and torch.isfinite(z.grad).all()


def pairs(model):
    rows = [
        {"inputs": v, "label": i % 2}
        for i, v in enumerate(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    ]
    change = Derived("task", Augment(noise=0.1))
    return Roles(Classifier(2, features="1"), {"task": rows}, answers={"one": change, "two": change})


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def test_through_fit_the_two_views_are_anchors_of_one_batch():
    model = net()
    roles = pairs(model)
    (batch,) = roles.window(0, 5, seed=0, roles=("one", "two"))
    views = roles.adapter.views(model, batch, ["one", "two"])
    items = SupervisedContrastive(0.3)((views["one"], views["two"]))
    z = nn.functional.normalize(torch.cat([views["one"].features, views["two"].features]), dim=1)
    every = supervised_contrastive(z, batch["one"]["labels"].repeat(2), 0.3, 0.07)
    torch.testing.assert_close(items, (every[:5] + every[5:]) / 2)


def test_the_projection_takes_plain_steps_of_its_own_and_goes_on_in_the_next_stage():
    model = net()
    roles, method = pairs(model), SupervisedContrastive(0.5, width=3, learning_rate=0.2)
    start = method.prepare(model, roles, "one")
    gradients = []

    class Watched(SupervisedContrastive):
        def after_step(self, model, state):
            gradients.append({n: p.grad.clone() for n, p in state.named_parameters()})
            super().after_step(model, state)

    watched = Watched(0.5, width=3, learning_rate=0.2)
    training = Training(steps=3, batch=6, lr=1e-9, optimizer="adamw", weight_decay=0.5, clip=1e-9)
    states = fit(model, roles, on(("one", "two"), watched), training).states["Watched"]
    for name, value in start.state_dict().items():
        moved = value - 0.2 * sum(g[name] for g in gradients)
        torch.testing.assert_close(states[name], moved)
        assert not torch.equal(states[name], value)
    again = method.prepare(model, roles, "one", states)
    assert all(torch.equal(v, states[n]) for n, v in again.state_dict().items())


def test_refusals():
    model = net()
    for fields, said in (({"temperature": 0.0}, "temperature must be"), ({"width": -1}, "width must not be negative")):
        with pytest.raises(ValueError, match=said):
            SupervisedContrastive(**fields)
    with pytest.raises(ValueError, match="2 roles, paired row by row, not at 1"):
        on("one", SupervisedContrastive())
    with pytest.raises(ValueError, match=r"set train\.accumulation to 1"):
        fit(
            model, pairs(model), on(("one", "two"), SupervisedContrastive()), Training(steps=1, batch=4, accumulation=2)
        )
