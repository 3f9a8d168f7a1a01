"""Random labels on one class of the digits: the class is forgotten, the others stay."""

import copy

import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.random_label import RandomLabel
from palimpsest.zoo.digits import digits

FORGOTTEN = 3


def accuracy(adapter, model, rows):
    predicted = adapter.subject(model).predict(rows).argmax(-1)
    return float((predicted == torch.tensor([r["label"] for r in rows])).float().mean())


def test_forgets_a_class_and_keeps_the_others():
    torch.manual_seed(0)
    train, test = digits(seed=0)
    adapter = Classifier(10)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    fit(model, adapter.roles(task=train), on("task", CrossEntropy()), Training(epochs=20, batch=64, lr=3e-3))
    forget, retain = ([r for r in train if (r["label"] == FORGOTTEN) == side] for side in (True, False))
    kept = [r for r in test if r["label"] != FORGOTTEN]
    before = accuracy(adapter, model, forget), accuracy(adapter, model, kept)
    total = on("forget", RandomLabel(exclude_true=True)) + on("retain", CrossEntropy())
    after = copy.deepcopy(model)
    fit(after, adapter.roles(forget=forget, retain=retain), total, Training(epochs=10, batch=32, lr=3e-3))
    assert before[0] > 0.98 and before[1] > 0.95  # do nothing
    assert accuracy(adapter, after, forget) < 0.05
    assert accuracy(adapter, after, kept) > before[1] - 0.05
