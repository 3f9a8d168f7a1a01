"""Dark experience: logits are stored once, for the buffer's rows alone, and follow them from stage to stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.dark_experience import DarkExperience, Remembered, dark_experience
from palimpsest.procedures.k_fpf import KFPF
from palimpsest.roles import Roles
from palimpsest.select import Selection
from palimpsest.views import LabelView


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def rows(n):
    g = torch.Generator().manual_seed(1)
    return [{"id": f"r{i}", "inputs": torch.randn(3, generator=g), "label": i % 3} for i in range(n)]


def chosen(*index):
    return Selection(torch.tensor(index), torch.ones(len(index)), torch.zeros(12))


def said(model, row):
    with torch.no_grad():
        return model.eval()(row["inputs"][None])[0]


def test_the_mean_squared_difference():
    own, stored = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    assert dark_experience(own, stored).tolist() == [2.0, 5.0]
    assert not dark_experience(own, own).any()


def test_logits_are_stored_once_and_go_with_their_rows():
    data, model = rows(12), net()
    roles = Roles(Classifier(3), {"replay": data}, selections={"replay": chosen(1, 4)})
    first = DarkExperience().prepare(model.train(), roles, "replay")
    assert model.training, "storing leaves the model in train mode"
    assert torch.equal(first.of(torch.tensor([4, 1]))[0], said(model, data[4]))
    before = said(model, data[4])
    nn.init.normal_(model[3].weight)
    roles.selections["replay"] = chosen(4, 7)
    second = DarkExperience().prepare(model, roles, "replay", first.state_dict())
    assert torch.equal(second.of(torch.tensor([4]))[0], before), "an old row keeps its old logits"
    torch.testing.assert_close(second.of(torch.tensor([7]))[0], said(model, data[7]))
    assert len(second.rows) == 2, "what left the buffer is dropped"


def test_a_union_that_grows_keeps_what_was_stored():
    """Another stage, another role: rows are known by their id, not by their place."""
    data, model = rows(12), net()
    first = DarkExperience().prepare(model, Roles(Classifier(3), {"replay": data[:4]}), "replay")
    before = [said(model, r) for r in data[:4]]
    nn.init.normal_(model[3].weight)
    second = DarkExperience().prepare(model, Roles(Classifier(3), {"again": data[::-1]}), "again", first.state_dict())
    for i in range(4):
        assert torch.equal(second.of(torch.tensor([11 - i]))[0], before[i])


def test_through_fit_and_a_later_stage():
    data, model = rows(12), net()
    roles = Roles(Classifier(3), {"task": data[6:], "replay": data[:6]})
    objective = on("task", CrossEntropy()) + on("replay", DarkExperience())
    training = Training(steps=4, batch=6, lr=0.1, optimizer="sgd")
    stored = [said(model, r) for r in data[:6]]
    left = fit(model, roles, objective, training).states
    again = fit(model, roles, objective, training, previous=left).states
    for states in (left, again):
        held = states["dark_experience"]
        assert torch.equal(held["logits"][held["place"]], torch.stack(stored))


def test_a_row_that_was_not_in_the_buffer_is_refused():
    roles = Roles(Classifier(3), {"replay": rows(12)}, selections={"replay": chosen(0, 1)})
    state = DarkExperience().prepare(net(), roles, "replay")
    with pytest.raises(ValueError, match="A replayed row has no stored logits"):
        state.of(torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="No logits are stored"):
        DarkExperience()(LabelView({"labels": torch.tensor([0])}, torch.zeros(1, 3)))


def test_k_fpf_with_distillation_stores_at_the_first_round_of_a_row(tmp_path):
    """Oracle 8 of FPF: every row of a round's buffer has stored logits; earlier rounds' stay."""
    data, model = rows(12), net()
    roles = Roles(Classifier(3), {"task": data[6:], "replay": data})
    objective = on("task", CrossEntropy()) + on("replay", CrossEntropy()) + 0.5 * on("replay", DarkExperience())
    method, training = KFPF(rounds=2, steps=3, size=12), Training(steps=2, batch=2, lr=0.3, optimizer="sgd")
    states = method(model, roles, objective, training, folder=tmp_path).states["dark_experience"]
    seen = (states["place"] >= 0).nonzero().flatten().tolist()
    assert set(range(6)) <= set(seen) and len(seen) == 10, "six old rows, and four of the stream"
    early = method.__class__(rounds=2, steps=3, size=12)
    again = net()
    first = early(again, roles, objective, Training(steps=2, batch=2, lr=0.3, optimizer="sgd"))
    assert torch.equal(first.states["dark_experience"]["logits"], states["logits"])
    assert isinstance(DarkExperience().prepare(model, roles, "replay", states), Remembered)
