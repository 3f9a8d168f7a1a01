"""Every edit is a patch of the model it is given, the same each time, and leaves that model and all others alone."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.card import docstring_of, parse_card
from palimpsest.roles import Roles
from palimpsest.zoo.models import tiny_llama

NAMES = sorted(names.names("edits"))
ROLES = ("forget", "retain")


@pytest.fixture(params=NAMES)
def edit(request):
    return names.build(request.param, "edits")


@pytest.fixture
def setting():
    """A decoder under a fresh adapter, rows of the usual roles, and a twin under the usual name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bare, tokenizer = tiny_llama()
        model = get_peft_model(bare, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    rows = {r: [{"prompt": f"{r} {i}", "completion": f" is {i * i}"} for i in range(4)] for r in ROLES}
    return model, Roles(CausalLM(tokenizer), rows), {"reinforced": twin}


def state(*models):
    return [{n: (v.clone(), v.requires_grad) for n, v in model.state_dict(keep_vars=True).items()} for model in models]


def test_fits_the_model_and_leaves_everything_alone(edit, setting):
    model, roles, companions = setting
    everyone = (model, *companions.values())
    before, modes = state(*everyone), [m.training for model in everyone for m in model.modules()]
    patch = edit(model, roles, companions)
    assert patch.why and patch.delta and all(bool(torch.isfinite(v).all()) for v in patch.delta.values())
    after = state(*everyone)
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[n][0], v) and old[n][1] == trains for n, (v, trains) in new.items())
    assert [m.training for model in everyone for m in model.modules()] == modes
    assert all(p.grad is None for model in everyone for p in model.parameters())
    with patch.applied(model):
        assert any(not torch.equal(v, before[0][n][0]) for n, v in model.state_dict().items())
    assert all(torch.equal(v, before[0][n][0]) for n, v in model.state_dict().items())


def test_the_same_patch_again(edit, setting):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(edit(*setting).delta)
    assert found[0].keys() == found[1].keys() and all(torch.equal(v, found[1][n]) for n, v in found[0].items())


def test_frozen_and_built_from_its_own_dump(edit):
    assert dataclasses.is_dataclass(edit) and type(edit).__dataclass_params__.frozen
    assert names.build(names.dump(edit), "edits") == edit


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = parse_card(docstring_of(names.names("edits")[name]))
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith(".") and "weight-edit" in card.tags


def test_every_edit_is_found():
    assert {"fila", "task_vector"} <= set(NAMES)
