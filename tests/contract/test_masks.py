"""Every mask names the model's own parameters, decides by itself, and leaves the model as it was."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from palimpsest import names
from palimpsest.adapters.classifier import Classifier
from palimpsest.card import docstring_of, parse_card
from palimpsest.mask import Masked
from palimpsest.roles import Roles

NAMES = sorted(names.names("masks"))
ROLES = ("task", "forget", "retain", "replay")


@pytest.fixture(params=NAMES)
def masker(request):
    return names.build(request.param, "masks")


@pytest.fixture
def setting():
    """A network with batch normalization, in train mode, and rows of the usual roles."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    rows = {r: [{"inputs": torch.randn(5, generator=generator), "label": i % 4} for i in range(6)] for r in ROLES}
    return model, Roles(Classifier(4, features="2"), rows)


def test_fits_the_model_and_leaves_it_alone(masker, setting):
    model, roles = setting
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    mask = masker(model, roles)
    Masked(mask, model)
    assert 0 <= mask.fraction <= 1 and mask.why
    assert all(m.dtype == torch.bool for m in mask.moves.values())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_decides_the_same_again(masker, setting):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(masker(*setting))
    assert found[0].still == found[1].still and found[0].moves.keys() == found[1].moves.keys()
    assert all(torch.equal(m, found[1].moves[n]) for n, m in found[0].moves.items())


def test_frozen_and_built_from_its_own_dump(masker):
    assert dataclasses.is_dataclass(masker) and type(masker).__dataclass_params__.frozen
    assert names.build(names.dump(masker), "masks") == masker


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = parse_card(docstring_of(names.names("masks")[name]))
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith(".") and "mask" in card.tags


def test_every_mask_is_found():
    assert {"salun", "forgetting_prioritized"} <= set(NAMES)
