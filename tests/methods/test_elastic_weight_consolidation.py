"""EWC: the Fisher of single rows, several tasks as one square, what goes from stage to stage, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import count_items, evaluate, on, prepare
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.elastic_weight_consolidation import (
    ElasticWeightConsolidation,
    empirical_fisher,
    quadratic_penalty,
)
from palimpsest.roles import RoleBatch, Roles

DOUBLE = torch.float64


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


def rows(n, seed):
    g = torch.Generator().manual_seed(seed)
    return [{"inputs": torch.randn(3, generator=g, dtype=DOUBLE), "label": i % 3} for i in range(n)]


def penalty(method, state, model):
    term = on("weights", method)
    return evaluate(term, model, RoleBatch({}, Classifier(3)), states={term.name: state}).total


def test_the_fisher_of_single_rows_by_a_naive_loop():
    model, data = net(), rows(5, 1)
    model.train()  # whose batch statistics of one row would be an error
    found = empirical_fisher(model, Roles(Classifier(3), {"task": data}), "task")
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    expected = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for row in data:
        model.zero_grad()
        nn.functional.cross_entropy(model(row["inputs"][None]), torch.tensor([row["label"]])).backward()
        for n, p in model.named_parameters():
            expected[n] += p.grad.square() / 5
    for n in expected:
        torch.testing.assert_close(found[n], expected[n], rtol=1e-12, atol=1e-15)


def test_only_the_first_rows():
    model, data = net(), rows(6, 1)
    roles = Roles(Classifier(3), {"task": data, "two": data[:2]})
    for a, b in zip(empirical_fisher(model, roles, "task", 2).values(), empirical_fisher(model, roles, "two").values()):
        assert torch.equal(a, b)


def test_three_tasks_are_the_sum_of_three_penalties():
    """Anchors that differ, and an entry that no task depends on."""
    models = [net(seed) for seed in (1, 2, 3)]
    roles = Roles(Classifier(3), {f"t{i}": rows(4, i) for i in range(3)})
    previous, fishers = None, []
    for i, model in enumerate(models):
        model[0].weight.data[:, 2] = 0
        state = ElasticWeightConsolidation(of=f"t{i}").prepare(model, roles, "weights", previous)
        previous = {n: v.clone() for n, v in state.state_dict().items()}
        fishers.append(empirical_fisher(model, roles, f"t{i}"))
    now = net(4)
    expected = sum(
        quadratic_penalty(p, models[i].get_parameter(n), fishers[i][n])
        for i in range(3)
        for n, p in now.named_parameters()
    )
    found = penalty(ElasticWeightConsolidation(of="t2"), state, now)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    slopes = [torch.autograd.grad(v, list(now.parameters())) for v in (found, expected)]
    for a, b in zip(*slopes):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_online_keeps_the_latest_anchor_alone():
    roles = Roles(Classifier(3), {"t0": rows(4, 0), "t1": rows(4, 1)})
    models = net(1), net(2)
    first = ElasticWeightConsolidation(of="t0", decay=0.5).prepare(models[0], roles, "weights")
    method = ElasticWeightConsolidation(of="t1", decay=0.5)
    state = method.prepare(models[1], roles, "weights", first.state_dict())
    assert float(penalty(method, state, models[1]).detach()) == 0
    old, new = empirical_fisher(models[0], roles, "t0"), empirical_fisher(models[1], roles, "t1")
    for n in old:
        torch.testing.assert_close(state.of("importance", n), 0.5 * old[n] + new[n])


def test_states_go_from_stage_to_stage_through_fit():
    roles = Roles(Classifier(3), {f"t{i}": rows(9, i) for i in range(3)})
    model, previous, anchors = net(), None, []
    for i in range(3):
        objective = on(f"t{i}", CrossEntropy())
        if i:
            anchors.append(copy.deepcopy(model))
            objective = objective + 3.0 * on("weights", ElasticWeightConsolidation(of=f"t{i - 1}"))
        result = fit(model, roles, objective, Training(steps=3, batch=9, lr=0.05, optimizer="sgd"), previous=previous)
        previous = result.states
    assert list(previous) == ["elastic_weight_consolidation"]
    state = previous["elastic_weight_consolidation"]
    fishers = [empirical_fisher(m, roles, f"t{i}") for i, m in enumerate(anchors)]
    torch.testing.assert_close(state["importance/0/weight"], sum(f["0.weight"] for f in fishers))
    curve = result.curves["weights/elastic_weight_consolidation"]
    assert curve[0][1] > 0, "the first task's anchor lies elsewhere than the second's"


def test_frozen_parameters_have_no_part():
    model = net()
    model[0].requires_grad_(False)
    roles = Roles(Classifier(3), {"task": rows(3, 0)})
    state = ElasticWeightConsolidation().prepare(model, roles, "weights")
    assert not any(key.startswith("importance/0/") for key in state.state_dict())
    assert float(penalty(ElasticWeightConsolidation(), state, model).detach()) == 0


def test_a_loop_of_ones_own_with_what_prepare_returns():
    """Two micro-batches have the gradient of the whole batch, and the second task's penalty knows the first task's."""
    model, roles = net(), Roles(Classifier(3), {"task": rows(6, 0), "new": rows(6, 1)})
    objective = on("new", CrossEntropy()) + 3 * on("weights", ElasticWeightConsolidation())
    states = prepare(objective, model, roles)
    assert states["new/cross_entropy"] is None and len(states) == 2
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)  # the penalty's gradient is 0 where it was prepared

    def gradient(accumulation):
        batches = roles.window(0, 6, seed=0, accumulation=accumulation)
        counts = count_items(objective, batches)
        model.zero_grad()
        for batch in batches:
            evaluate(objective, model, batch, counts=counts, states=states, share=1 / accumulation).total.backward()
        return [p.grad.clone() for p in model.parameters()]

    state = states["weights/elastic_weight_consolidation"]
    assert float(penalty(ElasticWeightConsolidation(), state, model).detach()) > 0
    whole = gradient(1)
    for accumulation in (2, 3):
        for a, b in zip(gradient(accumulation), whole):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    last = {"elastic_weight_consolidation": state.state_dict()}
    (later,) = prepare(on("weights", ElasticWeightConsolidation(of="new")), model, roles, last).values()
    assert float(later.offset) > 0  # what the first task has left


def test_refusals():
    roles = Roles(Classifier(3), {"task": rows(3, 0)})
    with pytest.raises(ValueError, match="the role 'gone', which has no rows; name the task before"):
        ElasticWeightConsolidation(of="gone").prepare(net(), roles, "weights")
    with pytest.raises(ValueError, match=r"decay lies in \[0, 1\]"):
        ElasticWeightConsolidation(decay=1.5)
    with pytest.raises(ValueError, match="rows must be at least 1"):
        ElasticWeightConsolidation(rows=0)
    with pytest.raises(ValueError, match="needs what prepare"):
        penalty(ElasticWeightConsolidation(), None, net())
