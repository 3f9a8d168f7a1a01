"""The line between two sets of weights: its ends, its barrier, and that it runs over the factors of an adapter."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from palimpsest.procedures.linear_path import LinePath, interpolated, linear_path, trained_weights
from palimpsest.zoo.models import tiny_llama


def test_a_convex_loss_has_no_barrier():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(20, 3, generator=generator), torch.randn(20, 1, generator=generator)
    model = nn.Linear(3, 1)
    start = {"weight": torch.tensor([[1.0, 2.0, -1.0]]), "bias": torch.tensor([0.5])}
    end = {"weight": torch.tensor([[-2.0, 0.0, 3.0]]), "bias": torch.tensor([-0.5])}
    before = copy.deepcopy(model.state_dict())
    path = linear_path(model, start, end, lambda m: float((m(inputs) - targets).square().mean().detach()))
    assert path.barrier == pytest.approx(0, abs=1e-6)
    assert path.amounts[0] == 0 and path.amounts[-1] == 1 and len(path.losses) == 11
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    middle = [(1 - a) * path.losses[0] + a * path.losses[-1] for a in path.amounts]
    assert all(loss < chord for loss, chord in zip(path.losses[1:-1], middle[1:-1]))


def test_barrier_and_best_by_hand():
    path = LinePath((0.0, 0.25, 0.5, 1.0), (1.0, 4.0, 0.5, 3.0))
    assert path.barrier == pytest.approx(4.0 - 1.5) and path.best == 0.5


def test_the_factors_are_interpolated_and_the_ends_are_exact():
    """A, B and -A, -B are one model; half way between them there is no adapter, so that no product was interpolated."""
    base, _ = tiny_llama(300, 1, 32)
    ids = torch.tensor([[4, 60, 7, 33]])
    plain = base(ids).logits.detach()
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"])).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(generator=torch.Generator().manual_seed(1))
    start = trained_weights(model)
    end = {name: -value for name, value in start.items()}
    said = []

    def measure(model):
        said.append(model(ids).logits.detach())
        return 0.0

    own = measure(model) or said.pop()
    linear_path(model, start, end, measure, (0, 0.5, 1))
    assert torch.equal(said[0], own) and torch.equal(said[2], own)
    torch.testing.assert_close(said[1], plain)
    assert float((own - plain).abs().max()) > 1e-2


def test_weights_come_back_when_measuring_fails():
    model = nn.Linear(2, 1)
    start = trained_weights(model)

    def fail(model):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        linear_path(model, start, {k: v + 1 for k, v in start.items()}, fail)
    assert all(torch.equal(v, start[k]) for k, v in trained_weights(model).items())


def test_what_is_refused():
    model = nn.Linear(2, 1)
    ends = trained_weights(model)
    for amounts in ((0.0,), (0.1, 1.0), (0.0, 0.7, 0.5, 1.0)):
        with pytest.raises(ValueError, match="go upwards from 0 to 1"):
            linear_path(model, ends, ends, lambda m: 0.0, amounts)
    with pytest.raises(ValueError, match="Only one of the two ends has 'bias'"):
        interpolated(ends, {"weight": ends["weight"]}, 0.5)
    with pytest.raises(ValueError, match="The model has no weight 'other'"):
        linear_path(model, {"other": ends["bias"]}, {"other": ends["bias"]}, lambda m: 0.0)
