"""Digits in two tasks: EWC, LwF, dark experience, ER-ACE, A-GEM, GEM, replay and a head for each task keep more of the
first than plain training.

Each with the other task learned about as well, and by a margin that the method with its point taken out fails.
"""

from __future__ import annotations

import copy
from functools import cached_property

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.task_accuracy import TaskAccuracy
from palimpsest.combine import ConeProjection, OneSidedProjection
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.asymmetric_cross_entropy import AsymmetricCrossEntropy
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.dark_experience import DarkExperience
from palimpsest.objectives.elastic_weight_consolidation import ElasticWeightConsolidation
from palimpsest.objectives.learning_without_forgetting import LearningWithoutForgetting
from palimpsest.objectives.task_cross_entropy import TaskCrossEntropy
from palimpsest.reference import Copy
from palimpsest.roles import Roles
from palimpsest.selectors.class_balanced import ClassBalanced
from palimpsest.selectors.reservoir import Reservoir
from palimpsest.zoo.classifiers import digits_mlp
from palimpsest.zoo.digits import digits, of_classes, seen_otherwise

ADAPTER = Classifier(10)
TRAINING = Training(steps=80, batch=32, lr=0.05, optimizer="sgd")
NEW = on("task2", CrossEntropy())


class Toy:
    """Two tasks, and a model that has learned the first."""

    def __init__(self, tasks, audit):
        self.train, self.test, self.audit = tasks[0], tasks[1], audit
        self.old = self.train[0]
        self.model = digits_mlp()
        fit(self.model, self.roles(), on("task1", CrossEntropy()), TRAINING)

    @cached_property
    def plain(self):
        """After the second task was learned without further ado."""
        return self.after(NEW)

    def roles(self, keep=None):
        roles = Roles(ADAPTER, {"task1": self.train[0], "task2": self.train[1], "replay": self.old})
        if keep is not None:
            roles.selections["replay"] = keep(self.old)
        return roles

    def after(self, objective, keep=None, **options):
        """(accuracy on the first task, on the second) after the second was learned by ``objective``."""
        model = copy.deepcopy(self.model)
        fit(model, self.roles(keep), objective, TRAINING, reference=Copy(model), **options)
        return self.known(model)

    def known(self, model):
        subject = ADAPTER.subject(model)
        found = [self.audit(subject, {"test": rows}, "test").items.mean() for rows in self.test]
        return tuple(round(float(v), 3) for v in found)


@pytest.fixture(scope="module")
def classes():
    """Digits 0 to 4, then 5 to 9: all ten classes compete."""
    parts = [[of_classes(part, classes=range(5)), of_classes(part, classes=range(5, 10))] for part in digits()]
    return Toy(parts, Accuracy())


@pytest.fixture(scope="module")
def told(classes):
    """The same, where the task is known."""
    toy = copy.copy(classes)
    toy.audit = TaskAccuracy()
    toy.__dict__.pop("plain", None)  # which was measured otherwise
    return toy


@pytest.fixture(scope="module")
def domains():
    """All digits, then their negatives, turned."""
    return Toy([[part, seen_otherwise(part, rotate=90, contrast=-1)] for part in digits()], Accuracy())


def test_ewc_keeps_another_domain(domains):
    kept = domains.after(NEW + 20 * on("weights", ElasticWeightConsolidation(of="task1", rows=200)))
    assert kept[0] > domains.plain[0] + 0.1 and kept[1] > 0.7


def test_a_gem_keeps_another_domain(domains):
    kept = domains.after(
        NEW + on("replay", CrossEntropy()), Reservoir(100), combine=OneSidedProjection("replay", follow=False)
    )
    assert kept[0] > domains.plain[0] + 0.1 and kept[1] > 0.7


def test_gem_keeps_both_halves_of_another_domain(domains):
    """Two memories, low digits and high ones, each with a gradient of its own that is not to be opposed."""
    model = copy.deepcopy(domains.model)
    halves = {"low": of_classes(domains.old, classes=range(5)), "high": of_classes(domains.old, classes=range(5, 10))}
    chosen = {role: Reservoir(50)(rows) for role, rows in halves.items()}
    roles = Roles(ADAPTER, {"task2": domains.train[1], **halves}, selections=chosen)
    total = NEW + on("low", CrossEntropy()) + on("high", CrossEntropy())
    fit(model, roles, total, TRAINING, combine=ConeProjection(("low", "high")))
    kept = domains.known(model)
    assert kept[0] > domains.plain[0] + 0.3 and kept[1] > 0.7


def test_lwf_keeps_the_old_classes_apart(told):
    kept = told.after(NEW + on("task2", LearningWithoutForgetting(tuple(range(5)))))
    assert kept[0] > told.plain[0] + 0.1 and kept[1] > 0.9


def test_lwf_holds_the_old_outputs_and_not_the_new_ones(told):
    """Held to what it said of classes that it did not know yet, the model forgets more."""
    held = {
        first: told.after(NEW + 3 * on("task2", LearningWithoutForgetting(tuple(range(first, first + 5)))))
        for first in (0, 5)
    }
    assert held[0][0] > held[5][0] + 0.1 and held[0][1] > 0.8, held


def test_a_head_for_each_task_keeps_the_old_classes_apart(told):
    """The softmax over all classes pushes the old outputs down on every new row; its own head leaves them alone."""
    kept = told.after(on("task2", TaskCrossEntropy()))
    assert kept[0] > told.plain[0] + 0.15 and kept[1] > 0.9


def test_at_the_switch_what_keeps_has_a_small_gradient_beside_what_learns(classes):
    """Oracle 7 of continual evaluation: the first steps of a new task look away from a memory that is at rest."""
    model = copy.deepcopy(classes.model)
    fit(model, classes.roles(), on("task1", CrossEntropy()), TRAINING)
    (batch,) = classes.roles(Reservoir(200)).window(0, 64, seed=0)
    stability, plasticity = (norm(term, model, batch) for term in (on("replay", CrossEntropy()), NEW))
    assert 0 < stability < 0.1 * plasticity
    fit(model, classes.roles(), NEW, TRAINING)
    assert norm(on("replay", CrossEntropy()), model, batch) > norm(NEW, model, batch), "and then it pulls back"


def norm(term, model, batch):
    """Of the gradient of one term over all weights."""
    found = torch.autograd.grad(evaluate(term, model, batch).total, list(model.parameters()))
    return float(torch.cat([g.flatten() for g in found]).norm())


REPLAY = {
    "replay": (NEW + on("replay", CrossEntropy()), Reservoir(50)),
    "class-balanced": (NEW + on("replay", CrossEntropy()), ClassBalanced(50)),
    "dark experience": (NEW + 0.1 * on("replay", DarkExperience()), Reservoir(50)),
    "dark experience ++": (
        NEW + 0.1 * on("replay", DarkExperience()) + 0.5 * on("replay", CrossEntropy()),
        Reservoir(50),
    ),
}


@pytest.mark.parametrize("name", REPLAY)
def test_a_buffer_of_fifty_rows_keeps_the_old_classes(classes, name):
    objective, keep = REPLAY[name]
    kept = classes.after(objective, keep)
    assert classes.known(classes.model)[0] > 0.9 and classes.plain[0] < 0.1
    assert kept[0] > classes.plain[0] + 0.3 and kept[1] > 0.7


def test_er_ace_teaches_new_classes_without_pushing_the_old_ones_down(classes):
    """The buffer holds rows of both tasks, as one that is filled on the way does."""
    half = 0.5 * on("replay", CrossEntropy())
    toy = copy.copy(classes)
    toy.old = [*classes.train[0], *classes.train[1]]
    replay = toy.after(0.5 * NEW + half, Reservoir(30))
    kept = toy.after(0.5 * on("task2", AsymmetricCrossEntropy()) + half, Reservoir(30))
    assert kept[0] > replay[0] + 0.08 and kept[1] > 0.5
