"""FPF on digits class by class: short rounds on a buffer, on few layers, win back what plain training has forgotten."""

from __future__ import annotations

import copy

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.accuracy import Accuracy
from palimpsest.loop import Training, fit
from palimpsest.masks.forgetting_prioritized import ForgettingPrioritized, layer_groups, named_groups
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.k_fpf import KFPF
from palimpsest.roles import Roles
from palimpsest.selectors.reservoir import Reservoir
from palimpsest.zoo.classifiers import digits_cnn
from palimpsest.zoo.digits import digits, of_classes

ADAPTER = Classifier(10)


def plain_sgd(groups, lr, weight_decay):
    return torch.optim.SGD(groups, lr=lr)


TRAINING = Training(steps=40, batch=32, lr=0.1, optimizer=plain_sgd)
OBJECTIVE = on("task", CrossEntropy()) + on("replay", CrossEntropy())


@pytest.fixture(scope="module")
def old_and_new():
    return [[of_classes(part, classes=range(5)), of_classes(part, classes=range(5, 10))] for part in digits()]


@pytest.fixture(scope="module")
def learned(old_and_new):
    """A model that knows the first five digits."""
    model = digits_cnn()
    fit(model, ADAPTER.roles(task=old_and_new[0][0]), on("task", CrossEntropy()), TRAINING)
    return model


def known(model, old_and_new):
    subject = ADAPTER.subject(model)
    return [float(Accuracy()(subject, {"test": rows}, "test").items.mean()) for rows in old_and_new[1]]


def test_rounds_win_back_what_plain_training_forgets(learned, old_and_new):
    (old, new), _ = old_and_new
    roles = Roles(ADAPTER, {"task": new, "replay": [*old, *new]})
    plain, rounds = copy.deepcopy(learned), copy.deepcopy(learned)
    fit(plain, roles, on("task", CrossEntropy()), TRAINING)
    KFPF(rounds=2, steps=20, size=100)(rounds, roles, OBJECTIVE, TRAINING)
    assert known(learned, old_and_new)[0] > 0.85
    assert known(plain, old_and_new)[0] < 0.2
    after = known(rounds, old_and_new)
    assert after[0] > 0.5 and sum(after) / 2 > 0.6, after
    once = copy.deepcopy(learned)
    KFPF(rounds=1, steps=20, size=100)(once, roles, OBJECTIVE, TRAINING)
    assert moved_between(plain.state_dict(), once) == names_of(once, ("normalization", "last"))


def moved_between(before, model):
    return {n for n, v in model.state_dict().items() if not before[n].equal(v)}


def names_of(model, modules):
    groups = layer_groups(model)
    return {n for g in named_groups(model, modules) for n in groups[g]}


@pytest.mark.parametrize(("modules", "won"), [(("normalization", "last"), 0.3), (("last",), 0.15)])
def test_fpf_after_training_moves_only_its_layers_and_wins_back_as_much(learned, old_and_new, modules, won):
    """With the last layer alone the statistics of normalization are frozen too."""
    (old, new), _ = old_and_new
    roles = Roles(ADAPTER, {"task": new, "replay": [*old, *new]})
    model = copy.deepcopy(learned)
    fit(model, roles, on("task", CrossEntropy()), TRAINING)
    before, forgotten = copy.deepcopy(model.state_dict()), known(model, old_and_new)
    roles.selections["replay"] = Reservoir(100)(roles.rows["replay"])
    training = Training(steps=40, batch=32, lr=0.02, optimizer="sgd", weight_decay=5e-4)
    fit(model, roles, on("replay", CrossEntropy()), training, mask=ForgettingPrioritized(modules)(model, roles))
    after = known(model, old_and_new)
    assert sum(after) > sum(forgotten) + won, (forgotten, after)
    assert moved_between(before, model) == names_of(model, modules)
