"""Weights by loss against the figures of their card; what is wrapped keeps its needs, state and place in a recipe."""

import copy
import math

import pytest
import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.names import UnknownName, build, dump
from palimpsest.objective import Objective, evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.multi_similarity import MultiSimilarity
from palimpsest.objectives.npo import NPO
from palimpsest.objectives.preference import Preference
from palimpsest.objectives.reweighted import Reweighted, loss_weights
from palimpsest.views import LabelView, TokenOutputs, TokenView
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64
THREE = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
STRATEGIES = ("linupper", "quadratic", "extremes", "linear")


def weights(losses, strategy="linupper", temperature=1.0):
    return loss_weights(losses, torch.ones(len(losses)).bool(), strategy, temperature)


class Given(Objective):
    """Losses that are written down, one a row, times a parameter."""

    unit = "example"

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, view, state=None):
        return view.logits[:, 0] * self.scale


def labels(n):
    return {"labels": torch.zeros(n, dtype=torch.int64)}


# 1. By hand


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("linupper", [0.155362, 0.422319, 0.422319]),
        ("quadratic", [0.211942, 0.576117, 0.211942]),
        ("extremes", [0.422319, 0.155362, 0.422319]),
    ],
)
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.bfloat16])
def test_three_losses(strategy, expected, dtype):
    found = weights(THREE.to(dtype), strategy)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    if strategy == "linupper":
        assert float((found * THREE).sum()) == pytest.approx(2.266956, abs=1e-6)


# 2. to 5.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_promises_of_the_weights(strategy):
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 5
    for r in (0.05, 0.4, 1.0):
        found = weights(losses, strategy, r)
        assert float(found.sum()) == pytest.approx(1)
        assert float(found.max() / found.min()) <= math.exp(1 / r) * (1 + 1e-9)
        torch.testing.assert_close(weights(3.7 * losses - 11, strategy, r), found)
    torch.testing.assert_close(weights(losses, strategy, 1e6), torch.full_like(losses, 1 / 20), rtol=1e-5, atol=0)
    torch.testing.assert_close(weights(losses, strategy, math.inf), torch.full_like(losses, 1 / 20))
    tiny = weights(losses, strategy, 1e-4)
    assert torch.isfinite(tiny).all() and float(tiny.sum()) == pytest.approx(1)


def test_the_gradient_takes_the_weights_for_constant():
    scale = torch.ones((), dtype=DOUBLE, requires_grad=True)
    losses = torch.tensor([[0.5], [2.0], [4.0], [9.0]], dtype=DOUBLE)
    found = Reweighted(Given(scale), "extremes", 0.4)(LabelView(labels(4), losses)).mean()
    found.backward()
    expected = (weights(losses[:, 0], "extremes", 0.4) * losses[:, 0]).sum()
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(scale.grad, expected)  # every l_i is its own derivative by the scale


def test_large_temperature_is_the_mean_over_sequences():
    model, tokenizer = tiny_llama(300, 1, 32)
    adapter = CausalLM(tokenizer)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where to", "completion": " over there"}]
    (batch,) = adapter.roles(task=rows).window(0, 2, seed=0)
    view = adapter.views(model, batch, ["task"])["task"]
    found = evaluate(on("task", Reweighted(temperature=1e6)), model, batch).total
    by_row = -(view.seq_logp / view.mask.sum(1))
    torch.testing.assert_close(found, by_row.mean(), rtol=1e-6, atol=0)
    # by length instead, uniform weights are the mean over tokens
    found = evaluate(on("task", Reweighted(temperature=1e6, length_weighting=True)), model, batch).total
    torch.testing.assert_close(found, evaluate(on("task", CrossEntropy()), model, batch).total, rtol=1e-6, atol=0)


# 7. Batches in which there is nothing to compare


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("losses", [[2.7], [2.7, 2.7, 2.7], [0.0, 0.0]])
def test_equal_losses_are_uniform(losses, strategy):
    found = weights(torch.tensor(losses), strategy)
    assert found.tolist() == pytest.approx([1 / len(losses)] * len(losses))


def test_a_sequence_without_a_scored_token_is_left_out():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=DOUBLE)
    targets = torch.tensor([[0, 1, 2, 3], [0, -100, -100, -100], [0, 4, 1, -100]])
    view = TokenView({"labels": targets}, TokenOutputs(logits=logits))
    found = Reweighted()(view)
    keep = [0, 2]
    alone = Reweighted()(TokenView({"labels": targets[keep]}, TokenOutputs(logits=logits[keep])))
    assert found[1] == 0
    torch.testing.assert_close(found[keep] / 3, alone / 2)  # both sum to the same loss
    nothing = Reweighted()(TokenView({"labels": torch.full((2, 4), -100)}, TokenOutputs(logits=logits[:2])))
    assert nothing.tolist() == [0.0, 0.0]


# Burn-in and annealing


def test_temperature_over_steps():
    objective = Reweighted(temperature=0.5, burn_in=2, annealing=3)
    found = [1 / objective.temperature_at(step) for step in range(7)]
    assert found == pytest.approx([0, 0, 0.5, 1, 1.5, 2, 2])
    assert Reweighted(temperature=0.5).temperature_at(0) == 0.5
    assert [Reweighted(burn_in=1).temperature_at(s) for s in (0, 1)] == [math.inf, 1.0]
    with pytest.raises(ValueError, match="call prepare"):
        objective(LabelView(labels(2), torch.randn(2, 3)))


def test_steps_are_counted_in_training():
    rows = [{"inputs": [float(i), 1.0], "label": i % 2} for i in range(8)]
    model, adapter = nn.Linear(2, 2), Classifier(2)
    nn.init.constant_(model.weight[0], 0.5), nn.init.zeros_(model.weight[1]), nn.init.zeros_(model.bias)
    other = copy.deepcopy(model)
    objective = on("task", Reweighted(burn_in=3, temperature=0.1))
    training = Training(steps=3, batch=8, lr=0.1, optimizer="sgd")
    result = fit(model, adapter.roles(task=rows), objective, training)
    fit(other, adapter.roles(task=rows), on("task", CrossEntropy()), training)
    torch.testing.assert_close(model.weight, other.weight)  # uniform throughout
    assert int(result.states["reweighted"]["steps"]) == 3
    longer = Training(steps=4, batch=8, lr=0.1, optimizer="sgd")
    fit(model, adapter.roles(task=rows), objective, longer)
    fit(other, adapter.roles(task=rows), on("task", CrossEntropy()), longer)
    assert float((model.weight - other.weight).abs().max().detach()) > 1e-3


# What is inside


class Counting(Objective):
    """Prepares a state, and goes on from the stage before."""

    unit = "example"

    def prepare(self, model, roles, role, previous=None):
        state = nn.Module()
        state.register_buffer("seen", torch.zeros(()) if previous is None else previous["seen"].clone())
        return state

    def __call__(self, view, state=None):
        return view.logits.square().sum(1) + 0 * state.seen

    def after_step(self, model, state):
        state.seen += 1


def test_the_state_inside_is_kept_from_stage_to_stage():
    rows = [{"inputs": [float(i), 1.0], "label": 0} for i in range(4)]
    model, roles = nn.Linear(2, 2), Classifier(2).roles(task=rows)
    objective = on("task", Reweighted(Counting()))
    first = fit(model, roles, objective, Training(steps=2, batch=4, lr=1e-3))
    second = fit(model, roles, objective, Training(steps=3, batch=4, lr=1e-3), previous=first.states)
    assert float(first.states["reweighted"]["inner.seen"]) == 2
    assert float(second.states["reweighted"]["inner.seen"]) == 5
    assert int(second.states["reweighted"]["steps"]) == 3  # of this stage


def test_needs_and_roles_are_those_of_what_is_inside():
    assert Reweighted(NPO()).needs == NPO.needs
    assert Reweighted(Preference()).arity == Preference.arity
    assert Reweighted().gathers and not Reweighted(MultiSimilarity()).gathers
    assert Reweighted(NPO(0.3)) == Reweighted(NPO(0.3)) != Reweighted(NPO(0.4))


# In a recipe


def test_built_and_dumped():
    spec = {"reweighted": {"objective": {"npo": {"beta": 0.3}}, "strategy": "quadratic"}}
    found = build(spec, "objectives", place="objective.0")
    assert found == Reweighted(NPO(0.3), "quadratic")
    assert build({"reweighted": {"objective": "npo"}}) == Reweighted(NPO())
    whole = Reweighted(NPO(0.3), "extremes", temperature=0.4)
    assert build(dump(whole), "objectives") == whole
    assert dump(whole)["reweighted"]["objective"] == dump(NPO(0.3))


@pytest.mark.parametrize(
    ("inside", "kind", "sentence"),
    [
        ({"npo": {"beta": -1}}, ValueError, r"objective\.0\.reweighted\.objective\.npo: beta must be above 0"),
        ({"npo": {"bata": 1}}, ValueError, r"objective\.0\.reweighted\.objective: npo has no field 'bata'"),
        ("npu", UnknownName, r"objective\.0\.reweighted\.objective: There is no objective 'npu'"),
        ("my.module:Loss", UnknownName, r"objective\.0\.reweighted\.objective: .*--allow-imports"),
        (3, ValueError, r"objective\.0\.reweighted\.objective: .*instance of Objective"),
    ],
)
def test_errors_name_the_place(inside, kind, sentence):
    with pytest.raises(kind, match=sentence):
        build({"reweighted": {"objective": inside}}, "objectives", place="objective.0")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"burn_in": -1}, "steps from 0"),
        ({"annealing": -1}, "steps from 0"),
        ({"strategy": "upper"}, "strategy is linupper"),
        ({"objective": "npo"}, "objective is a loss on rows"),
    ],
)
def test_settings_are_checked(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Reweighted(**fields)


def test_a_loss_that_is_already_reduced_is_refused():
    class Mean(CrossEntropy):
        def __call__(self, view, state=None):
            return super().__call__(view, state).mean()

    with pytest.raises(ValueError, match="it must return one per item"):
        Reweighted(Mean())(LabelView(labels(3), torch.randn(3, 2)))
