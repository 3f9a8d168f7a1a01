"""A head for each task: the softmax runs over the task's classes, and no other head moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.task_cross_entropy import TaskCrossEntropy, task_cross_entropy
from palimpsest.roles import Roles

DOUBLE = torch.float64


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def rows(*labels):
    inputs = normal(len(labels), 3).float()
    return [{"id": f"{label}/{i}", "inputs": x, "label": label} for i, (x, label) in enumerate(zip(inputs, labels))]


def test_a_softmax_over_the_tasks_classes_by_hand():
    logits, labels = normal(4, 6).requires_grad_(), torch.tensor([4, 1, 4, 2])
    loss = task_cross_entropy(logits, labels, torch.tensor([1, 2, 4]))
    exponents = logits.detach().exp()
    by_hand = -(exponents.gather(1, labels[:, None])[:, 0] / exponents[:, [1, 2, 4]].sum(1)).log()
    torch.testing.assert_close(loss.detach(), by_hand)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert not slope[:, [0, 3, 5]].any() and slope[:, [1, 2, 4]].all()
    other = logits.detach().clone()
    other[:, [0, 3, 5]] += 50
    torch.testing.assert_close(task_cross_entropy(other, labels, torch.tensor([1, 2, 4])), loss.detach())


def test_with_all_classes_it_is_plain_cross_entropy():
    logits, labels = normal(5, 4), torch.tensor([3, 0, 2, 2, 1])
    plain = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(task_cross_entropy(logits, labels, torch.arange(4)), plain)


def test_through_fit_each_term_has_the_classes_of_its_role_and_the_other_heads_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 8))
    roles = Roles(Classifier(8), {"new": rows(4, 6, 4, 6), "old": rows(0, 1, 1, 0), "gone": rows(2, 3)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = on("new", TaskCrossEntropy()) + on("old", TaskCrossEntropy())
    training = Training(steps=6, batch=4, lr=0.1, optimizer="sgd", weight_decay=0.0)
    fit(model, roles, objective, training)
    moved = (model[2].weight != before["2.weight"]).any(1)
    assert moved.nonzero().flatten().tolist() == [0, 1, 4, 6]
    assert (model[2].bias != before["2.bias"]).nonzero().flatten().tolist() == [0, 1, 4, 6]
    assert (model[0].weight != before["0.weight"]).any(), "what the heads share moves"
    term = on("new", TaskCrossEntropy((4, 5, 6)))
    assert term.objective.prepare(model, roles, "new").classes.tolist() == [4, 5, 6]


def test_refusals():
    model, roles = nn.Linear(3, 5), Roles(Classifier(5), {"task": rows(0, 4)})
    (batch,) = roles.window(0, 2, seed=0)
    for classes in ((1, 1), (-1, 2)):
        with pytest.raises(ValueError, match="classes names each class once"):
            TaskCrossEntropy(classes)
    for classes, said in (((0, 1), r"The label 4 is none of the task's classes \[0, 1\]"), ((0, 9), "names 9, but")):
        term = on("task", TaskCrossEntropy(classes))
        state = term.objective.prepare(model, roles, "task")
        with pytest.raises(ValueError, match=said):
            evaluate(term, model, batch, states={term.name: state})
    with pytest.raises(ValueError, match="task's classes are missing"):
        evaluate(on("task", TaskCrossEntropy()), model, batch)
