"""Every layer trains inside a model, leaves plain modules that compute the same, and resumes to the same weights."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import OrderedDict
from functools import cache

import objective_checks as contract
import pytest
import torch
from torch import nn

from palimpsest import names
from palimpsest.adapters.classifier import Classifier
from palimpsest.card import docstring_of, parse_card
from palimpsest.loop import Interrupted, Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.reference import evaluating
from palimpsest.roles import Roles

NAMES = sorted(names.names("layers"))
TOLERANCE = 1e-5
"""Of outputs in float32, relative to their largest."""


def card_of(name):
    return parse_card(docstring_of(names.names("layers")[name]))


@cache
def _classifier():
    """As in the contract of objectives, with the names that layers look for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        return nn.Sequential(OrderedDict(mlp=body, head=nn.Linear(8, 4))), Classifier(4, features="mlp")


BUILDERS = {"language-model": contract.KINDS["language-model"][0], "classifier": _classifier}
CASES = [(name, kind) for name in NAMES for kind in BUILDERS if kind in card_of(name).tags]
each = pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{n}-{k}" for n, k in CASES])


def setting(name, kind):
    """A model with the layer installed, the model as it was, data, and the objective that the layer's card asks for."""
    original, adapter = BUILDERS[kind]()
    rows = contract.KINDS[kind][1]
    model = copy.deepcopy(original)
    layer = names.build(name, "layers")
    layer.install(model)
    asked = [m for m in re.findall(r"`(\w+)`", card_of(name).needs) if m in names.names("objectives")]
    objective = on("task", names.build(asked[0] if asked else "cross_entropy", "objectives"))
    return layer, model, original, Roles(adapter, {"task": rows(0)}), objective


def outputs(model, roles):
    """What the model says of all rows in eval mode."""
    (batch,) = roles.window(0, contract.ROWS, seed=0)
    with evaluating(model):
        return batch.adapter.views(model, batch, ["task"])["task"].logits


def trained(model, roles, objective, **options):
    return fit(model, roles, objective, Training(steps=4, batch=6, lr=1e-2, checkpoint_every=1), seed=3, **options)


def same(found, expected):
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


@each
def test_merged_is_the_plain_model_and_computes_the_same(name, kind):
    layer, model, original, roles, objective = setting(name, kind)
    replaced = {n for n, m in model.named_modules() if type(m).__module__.startswith("palimpsest.")}
    assert replaced, "nothing was replaced"
    for steps in (False, True):
        inside = copy.deepcopy(model)
        if steps:
            trained(inside, roles, objective)
        expected = outputs(inside, roles)
        layer.merge(inside)
        assert [type(m) for m in inside.modules()] == [type(m) for m in original.modules()]
        assert {k: v.shape for k, v in inside.state_dict().items()} == {
            k: v.shape for k, v in original.state_dict().items()
        }
        assert all(v.dtype == original.state_dict()[k].dtype for k, v in inside.state_dict().items())
        assert all(p.requires_grad for p in inside.parameters())
        same(outputs(inside, roles), expected)
        layer.merge(inside)  # nothing is left to be merged
        same(outputs(inside, roles), expected)


@each
def test_training_moves_every_weight_that_was_replaced(name, kind):
    layer, model, _, roles, objective = setting(name, kind)
    start = copy.deepcopy(model)
    trained(model, roles, objective)
    for either in (start, model):
        layer.merge(either)
    before = dict(start.named_parameters())
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert not still, f"training left {still[0]} where it was"


@each
def test_gradients_reach_all_parameters(name, kind):
    _, model, _, roles, objective = setting(name, kind)
    model.train()
    (batch,) = roles.window(0, contract.ROWS, seed=0)
    torch.manual_seed(0)
    evaluate(objective, model, batch).total.backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), f"no gradient reaches {path}"
        assert torch.isfinite(parameter.grad).all()


@each
def test_state_dict_round_trip(name, kind):
    layer, model, original, roles, objective = setting(name, kind)
    trained(model, roles, objective)
    other = copy.deepcopy(original)
    contract.drift(other, 0.1, seed=5)
    layer.install(other)
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other, roles), outputs(model, roles))


@each
def test_a_stopped_run_resumes_to_the_same_weights(name, kind, tmp_path):
    _, model, _, roles, objective = setting(name, kind)
    again = [copy.deepcopy(model), copy.deepcopy(model)]
    trained(model, roles, objective)

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        trained(again[0], roles, objective, folder=tmp_path, on_step=stop)
    trained(again[1], roles, objective, folder=tmp_path)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again[1].state_dict().items())


@each
def test_the_split_of_a_batch_does_not_matter(name, kind):
    """Where the layer draws nothing at random, which no split could leave alone."""
    _, model, _, roles, objective = setting(name, kind)
    (batch,) = roles.window(0, contract.ROWS, seed=0)
    model.train()
    found = [float(evaluate(objective, model, batch).total.detach()) for _ in range(2)]
    if found[0] != found[1]:
        pytest.skip("it draws at random in every forward pass, so no split can leave its numbers alone")
    split = copy.deepcopy(model)
    for either, parts in ((model, 1), (split, 3)):
        training = Training(steps=3, batch=6, lr=1e-2, optimizer="sgd", accumulation=parts, clip=None)
        fit(either, roles, objective, training, seed=3)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(split.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_a_fitting_module_is_refused(name):
    layer = names.build(name, "layers")
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"^The model has no [^.]*\.$") as error:
        layer.install(model)
    assert "\n" not in str(error.value)
    assert [type(m) for m in model] == [nn.Conv1d, nn.Flatten]


@pytest.mark.parametrize("name", NAMES)
def test_built_from_its_own_dump(name):
    layer = names.build(name, "layers")
    assert list(names.dump(layer)) == [name]
    assert names.build(names.dump(layer), "layers") == layer
    assert dataclasses.is_dataclass(layer) and type(layer).__dataclass_params__.frozen
    assert hash(layer) == hash(copy.deepcopy(layer))


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = card_of(name)
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith("."), "the first line is a sentence"
    assert "architecture" in card.tags and any(kind in card.tags for kind in BUILDERS)


def test_every_layer_is_found():
    assert {"lost", "multi_sample_dropout", "spherical_output"} <= set(NAMES)
