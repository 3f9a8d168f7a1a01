"""FPF: groups, sensitivity, and what it freezes, which does not move by a bit."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.masks.forgetting_prioritized import (
    ForgettingPrioritized,
    layer_groups,
    mask_of,
    named_groups,
    sensitivity,
)
from palimpsest.names import build
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.zoo.classifiers import digits_cnn
from palimpsest.zoo.digits import digits, of_classes

NORMS = {"norm1.affine", "norm1.statistics", "norm2.affine", "norm2.statistics"}
LAYERS = {"conv1", "conv2", "hidden", "head"}


@pytest.fixture(scope="module")
def rows():
    return of_classes(digits()[0], classes=[0, 1])


@pytest.fixture
def roles(rows):
    return Roles(Classifier(10), {"task": rows, "replay": rows[:40]})


def trained(model, roles, mask=None, optimizer="sgd", **options):
    """A copy after a few steps with momentum and a weight decay that would move a frozen weight at once."""
    moved = copy.deepcopy(model)
    options = {"steps": 5, "batch": 16, "lr": 0.05, "weight_decay": 0.1, **options}
    fit(moved, roles, on("replay", CrossEntropy()), Training(optimizer=optimizer, **options), mask=mask)
    return moved


def changed(model, other):
    after = other.state_dict()
    return {n for n, v in model.state_dict().items() if not torch.equal(v, after[n])}


def test_groups_of_a_network():
    groups = layer_groups(digits_cnn())
    assert set(groups) == NORMS | LAYERS
    assert groups["norm1.affine"] == ("norm1.weight", "norm1.bias")
    assert groups["norm1.statistics"] == ("norm1.running_mean", "norm1.running_var", "norm1.num_batches_tracked")
    assert [n for names in groups.values() for n in names] != []
    assert sorted(n for names in groups.values() for n in names) == sorted(digits_cnn().state_dict())


def test_groups_of_a_language_model():
    from palimpsest.zoo.models import tiny_llama

    model = tiny_llama()[0]
    assert named_groups(model, ["first"]) == {"model.embed_tokens"}
    norms = named_groups(model, ["normalization"])
    assert "model.norm.affine" in norms and "model.layers.0.input_layernorm.affine" in norms and len(norms) == 5
    moves = mask_of(model, named_groups(model, ["last"])).moves
    assert sum(bool(m.any()) for m in moves.values()) == 1


def test_names():
    model = digits_cnn()
    assert named_groups(model, ["normalization", "last"]) == NORMS | {"head"}
    assert named_groups(model, ["first"]) == {"conv1"}
    assert named_groups(model, ["norm1"]) == {"norm1.affine", "norm1.statistics"}
    assert named_groups(model, ["norm2.statistics", "conv2"]) == {"norm2.statistics", "conv2"}
    assert named_groups(model, []) == set()
    with pytest.raises(ValueError, match="no layer 'norm9' with weights or statistics; there are: conv1"):
        named_groups(model, ["norm9"])


# Sensitivity


def test_the_mean_absolute_change():
    """Oracle 1: 0.6 / 3; a layer beside a copy of itself has the same figure; no step is 0."""
    small, twice = nn.Linear(3, 1, bias=False), nn.Linear(3, 2, bias=False)
    before = {"weight": torch.zeros(1, 3, dtype=torch.float64)}
    after = {"weight": torch.tensor([[0.1, -0.3, 0.2]], dtype=torch.float64)}
    assert sensitivity(small, before, after)[""] == pytest.approx(0.2, abs=1e-12)
    two = [{"weight": s["weight"].repeat(2, 1)} for s in (before, after)]
    assert sensitivity(twice, *two)[""] == pytest.approx(0.2, abs=1e-12)
    assert sensitivity(small, before, before)[""] == 0


def test_counters_do_not_count():
    model = digits_cnn()
    before = model.state_dict()
    after = {**before, "norm1.num_batches_tracked": torch.tensor(1000)}
    assert set(sensitivity(model, before, after).values()) == {0.0}


@pytest.mark.parametrize(("change", "expected"), [("inputs", {"norm.statistics", "first"}), ("labels", {"last"})])
def test_planted_sensitivity(change, expected):
    """Oracle 7: other inputs move the first layer and the norm behind it, other labels the classifier."""
    torch.manual_seed(0)
    x = torch.randn(96, 6)
    y = (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()
    rows = [{"inputs": v, "label": int(c)} for v, c in zip(x, y)]
    scale = 6.0 if change == "inputs" else 1.0
    other = [{"inputs": scale * v, "label": int(c if change == "inputs" else (c + 1) % 4)} for v, c in zip(x, y)]
    norm = [("norm", nn.BatchNorm1d(16))] if change == "inputs" else []  # statistics never come quite to rest
    middle = [("act", nn.Tanh()), ("mid", nn.Linear(16, 16)), ("act2", nn.Tanh()), ("last", nn.Linear(16, 4))]
    model = nn.Sequential(OrderedDict([("first", nn.Linear(6, 16)), *norm, *middle]))
    training = Training(steps=150, batch=32, lr=0.1, optimizer="sgd", clip=None)
    fit(model, Roles(Classifier(4), {"task": rows}), on("task", CrossEntropy()), training)
    start = copy.deepcopy(model.state_dict())
    mask = ForgettingPrioritized(top=1, on="next", steps=10)(model, Roles(Classifier(4), {"next": other}))
    assert any(group in mask.why for group in expected), mask.why
    assert all(torch.equal(v, start[n]) for n, v in model.state_dict().items()), "measuring moved the model"


def test_the_groups_that_move_most_are_chosen(roles):
    model = digits_cnn()
    state = torch.get_rng_state()
    one, three = (ForgettingPrioritized(top=n)(model, roles) for n in (1, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.fraction < three.fraction
    for name in one.moves:
        assert not (one.moves[name] & ~three.moves[name]).any()


# Freezing


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("modules", [("norm1.affine",), ("norm2.statistics",), ("last",), ("normalization", "last")])
def test_what_is_outside_stays_bit_for_bit(roles, optimizer, modules):
    """Oracle 2: weights and buffers, with momentum and weight decay."""
    model = digits_cnn()
    chosen = named_groups(model, modules)
    mask = ForgettingPrioritized(modules)(model, roles)
    assert changed(model, trained(model, roles, mask, optimizer)) == {n for g in chosen for n in layer_groups(model)[g]}


def test_with_all_groups_it_is_ordinary_fine_tuning(roles):
    """Oracle 3, first half."""
    model = digits_cnn()
    mask = mask_of(model, layer_groups(model))
    assert not mask.still
    assert not changed(trained(model, roles), trained(model, roles, mask))


def test_with_no_group_nothing_happens(roles):
    """Oracle 3, second half."""
    model = digits_cnn()
    assert not changed(model, trained(model, roles, ForgettingPrioritized(())(model, roles)))


def test_the_last_layer_reaches_the_least_squares_solution():
    """Oracle 6, without and with weight decay (a ridge in closed form)."""
    from palimpsest.objective import Objective

    class Squared(Objective):
        unit = "example"

        def __call__(self, view, state=None):
            one_hot = torch.nn.functional.one_hot(view.labels, 3).to(view.logits)
            return (view.logits - one_hot).square().sum(1) / 2

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    x, y = 4 * torch.randn(12, 5, dtype=torch.float64), torch.randint(3, (12,))
    roles = Roles(Classifier(3), {"replay": [{"inputs": v, "label": int(c)} for v, c in zip(x, y)]})
    with torch.no_grad():
        features = model[:2](x)
    targets = torch.nn.functional.one_hot(y, 3).double()
    for decay in (0.0, 0.1):
        tuned = copy.deepcopy(model)
        mask = ForgettingPrioritized(("last",))(tuned, roles)
        training = Training(steps=240, batch=12, lr=0.3, optimizer="sgd", weight_decay=decay, clip=None)
        fit(tuned, roles, on("replay", Squared()), training, mask=mask)
        gram = features.T @ features + 12 * decay * torch.eye(4, dtype=torch.float64)
        expected = torch.linalg.solve(gram, features.T @ targets).T
        torch.testing.assert_close(tuned[2].weight.detach(), expected, atol=1e-4, rtol=0)
        assert torch.equal(tuned[0].weight, model[0].weight)


# What is refused


def test_refusals(roles):
    with pytest.raises(ValueError, match="top must be at least 1"):
        ForgettingPrioritized(top=0)
    with pytest.raises(ValueError, match="must be above 0"):
        ForgettingPrioritized(steps=0)
    with pytest.raises(ValueError, match="the role 'next', which has no rows"):
        ForgettingPrioritized(top=1, on="next")(digits_cnn(), roles)
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        build({"forgetting_prioritized": {"modules": ["nothing"]}}, "masks")(digits_cnn(), roles)
