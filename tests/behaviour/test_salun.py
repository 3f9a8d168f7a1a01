"""SalUn forgets a class of handwritten digits with half of the weights frozen, and keeps the other classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.masks.salun import SalUn
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.random_label import RandomLabel
from palimpsest.zoo.digits import digits

ADAPTER = Classifier(10)
FORGOTTEN = 3
SGD = {"lr": 0.02, "optimizer": "sgd", "weight_decay": 5e-4}


def accuracy(model: nn.Module, rows: Sequence[Any]) -> float:
    found = ADAPTER.subject(model).predict(rows).argmax(-1)
    return float((found == torch.tensor([r["label"] for r in rows])).float().mean())


@pytest.fixture(scope="module")
def parts() -> dict[str, list[Any]]:
    train, test = digits()
    return {
        "train": train,
        "forget": [r for r in train if r["label"] == FORGOTTEN],
        "retain": [r for r in train if r["label"] != FORGOTTEN],
        "test": [r for r in test if r["label"] != FORGOTTEN],
    }


@pytest.fixture(scope="module")
def trained(parts: dict[str, list[Any]]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    roles = ADAPTER.roles(task=parts["train"])
    fit(model, roles, on("task", CrossEntropy()), Training(epochs=15, batch=32, **SGD))
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_is_forgotten_and_the_others_are_kept(
    parts: dict[str, list[Any]], trained: nn.Module, seed: int
) -> None:
    assert accuracy(trained, parts["forget"]) > 0.95 and accuracy(trained, parts["test"]) > 0.9
    model = copy.deepcopy(trained)
    roles = ADAPTER.roles(retain=parts["retain"], forget=parts["forget"])
    mask = SalUn(0.5)(model, roles)
    assert mask.fraction == pytest.approx(0.5, abs=1e-4)
    objective = on("retain", CrossEntropy()) + on("forget", RandomLabel())
    fit(model, roles, objective, Training(epochs=5, batch=32, **SGD), mask=mask, seed=seed)
    assert accuracy(model, parts["forget"]) < 0.1
    assert accuracy(model, parts["test"]) >= 0.85
    for name, parameter in model.named_parameters():
        frozen = ~mask.moves[name]
        assert torch.equal(parameter[frozen], trained.get_parameter(name)[frozen])


def test_training_on_the_rest_alone_does_not_forget(parts: dict[str, list[Any]], trained: nn.Module) -> None:
    """What the random labels do: without them the class is still known."""
    model = copy.deepcopy(trained)
    roles = ADAPTER.roles(retain=parts["retain"], forget=parts["forget"])
    fit(model, roles, on("retain", CrossEntropy()), Training(epochs=5, batch=32, **SGD), mask=SalUn(0.5)(model, roles))
    assert accuracy(model, parts["forget"]) > 0.5
