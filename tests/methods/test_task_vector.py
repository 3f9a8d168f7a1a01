"""A task vector: nothing at alpha 0, the mirror image at alpha 1, and a sentence where there is no vector."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.edits.task_vector import TaskVector, negated
from palimpsest.roles import Roles
from palimpsest.zoo.models import tiny_llama

ROLES: Any = Roles(Classifier(2), {})  # it looks at no row


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights in steps of 1/64, so that sums and differences with such steps are exact."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-64, 64, parameter.shape, generator=generator) / 64)
    return model


def moved(model: nn.Module, by: float) -> nn.Module:
    """A twin whose weights lie ``by`` higher."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += by
    return twin


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_alpha_zero_is_the_target_bit_for_bit() -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters())[0, 0] = -0.0  # adding a zero of the other sign would show here
    before = values(model)
    patch = TaskVector(0.0)(model, ROLES, {"reinforced": moved(model, -0.5)})
    assert not patch.delta
    patch.apply(model)
    assert all(value.numpy().tobytes() == before[n].numpy().tobytes() for n, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_a_twin_above_the_target_sends_it_below(dtype: torch.dtype, alpha: float) -> None:
    """Reinforced = target + d gives target - alpha d."""
    model = network(dtype)
    before, twin = values(model), moved(model, 0.5)
    expected = {n: p - 0.5 * alpha for n, p in model.named_parameters()}
    patch = TaskVector(alpha)(model, ROLES, {"reinforced": twin})
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items()), "the model itself is left alone"
    with patch.applied(model):
        assert all(torch.equal(p, expected[n]) for n, p in model.named_parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_half_precision_is_rounded_once() -> None:
    """1 and 1 - 2^-8 differ by less than half of bfloat16's step above 1: four of them do move the weight."""
    own, other = (torch.tensor([x], dtype=torch.bfloat16) for x in (1.0, 1 - 2**-8))
    change = negated({"w": own}, {"w": other}, 4.0)["w"]
    assert change.dtype == torch.float32 and change.item() == 4 * 2**-8


def test_buffers_and_weights_that_agree_are_left_out() -> None:
    model = network()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[1].running_mean += 1
        twin[2].bias += 1
    assert set(TaskVector()(model, ROLES, {"reinforced": twin}).delta) == {"2.bias"}


def test_tied_weights_move_once() -> None:
    model, _ = tiny_llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    before = model.get_input_embeddings().weight.detach().clone()
    twin = moved(model, 0.5)
    TaskVector()(model, ROLES, {"reinforced": twin}).apply(model)
    torch.testing.assert_close(model.get_output_embeddings().weight, before - 0.5)


def test_companions_that_do_not_fit() -> None:
    model = network()
    for given in (None, {}):
        with pytest.raises(ValueError, match=r"no companion 'reinforced' \(there are: none\); train one in an earlier"):
            TaskVector()(model, ROLES, given)
    with pytest.raises(ValueError, match=r"no companion 'twin' \(there are: reinforced\)"):
        TaskVector(companion="twin")(model, ROLES, {"reinforced": network()})
    with pytest.raises(ValueError, match="is the model itself; start it as a copy"):
        TaskVector()(model, ROLES, {"reinforced": model})
    with pytest.raises(ValueError, match=r"'0\.weight' of shape \(4, 3\), and the companion has it as \(3, 3\)"):
        TaskVector()(model, ROLES, {"reinforced": nn.Sequential(nn.Linear(3, 3))})
    text, _ = tiny_llama()
    adapted = get_peft_model(copy.deepcopy(text), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"the companion lacks it; .* edit the model in a stage without lora"):
        TaskVector()(adapted, ROLES, {"reinforced": text})


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_values_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="drop the sign"):
        TaskVector(alpha)
