"""PRD on digits in two tasks, without a stored row: with distillation old prototypes go with their classes."""

from __future__ import annotations

import copy

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.task_accuracy import TaskAccuracy
from palimpsest.augment import Augment
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.prototype_relation import PrototypeRelation
from palimpsest.objectives.supervised_contrastive import SupervisedContrastive
from palimpsest.reference import Copy
from palimpsest.roles import Derived, Roles
from palimpsest.zoo.classifiers import digits_cnn
from palimpsest.zoo.digits import digits, of_classes

ADAPTER = Classifier(10, features="features")
VIEWS = ("one", "two")
TASKS = ((0, 1, 2), (3, 4, 5))


def learn(model, classes, method, previous=None):
    view = Derived("task", Augment(shift=1, noise=0.1))
    roles = Roles(ADAPTER, {"task": of_classes(digits()[0], classes=classes)}, answers={"one": view, "two": view})
    objective = on(VIEWS, SupervisedContrastive()) + on(VIEWS, method)
    training = Training(steps=40, batch=24, lr=0.05, optimizer="sgd")
    return fit(model, roles, objective, training, reference=Copy(model), previous=previous).states


def known(model, classes):
    """Accuracy of one task's prototypes on its test rows, and their cosine to the classes' mean unit features."""
    rows = of_classes(digits()[1], classes=classes)
    subject = ADAPTER.subject(model)
    unit = torch.nn.functional.normalize(subject.embed(rows), dim=1)
    labels = torch.tensor([r["label"] for r in rows])
    means = torch.stack([unit[labels == c].mean(0) for c in classes])
    near = torch.nn.functional.cosine_similarity(means, model.head.weight[list(classes)].detach(), dim=1)
    return float(TaskAccuracy()(subject, {"test": rows}, "test").items.mean()), float(near.mean())


@pytest.fixture(scope="module")
def first():
    model = digits_cnn()
    states = learn(model, TASKS[0], PrototypeRelation(learning_rate=0.1, head="head"))
    assert known(model, TASKS[0])[0] > 0.9
    return model, states


@pytest.mark.parametrize("axis", ["prototypes", "samples"])
def test_old_prototypes_go_with_their_classes(first, axis):
    after = {}
    for weight in (4.0, 0.0):
        model = copy.deepcopy(first[0])
        learn(model, TASKS[1], PrototypeRelation(relation=weight, axis=axis, learning_rate=0.1, head="head"), first[1])
        after[weight] = known(model, TASKS[0])
        assert known(model, TASKS[1])[0] > 0.8
    (accuracy, nearness), (lost, apart) = after[4.0], after[0.0]
    assert accuracy > lost + 0.15 and nearness > apart + 0.08, after
