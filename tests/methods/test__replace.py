"""Which modules a layer takes the place of, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from palimpsest.layers._replace import linear_of, linears, output_layer, replace
from palimpsest.layers.lost import LOST


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_what_is_put_in_has_the_mode_of_what_stood_there() -> None:
    model = net().eval()
    replace(model, "2", nn.Dropout(0.5))
    assert isinstance(model[2], nn.Dropout) and not model[2].training


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, 2.0])])
def test_a_linear_layer_holds_copies(bias: torch.Tensor | None) -> None:
    weight = torch.arange(6.0).view(2, 3)
    layer = linear_of(weight, bias)
    weight.add_(1)
    assert torch.equal(layer.weight.detach(), weight - 1) and (layer.bias is None) == (bias is None)


def test_the_head_is_the_last_linear_layer_or_the_one_that_is_named() -> None:
    assert output_layer(net(), None)[0] == "2" and output_layer(net(), "0")[0] == "0"


def test_a_model_without_a_head() -> None:
    with pytest.raises(ValueError, match="has no linear layer that could be its head; name the head's module path"):
        output_layer(nn.Sequential(nn.Conv1d(2, 2, 1)), None)
    with pytest.raises(ValueError, match=r"has no module '7'; there are: 0, 1, 2\."):
        output_layer(net(), "7")


def test_a_head_that_was_replaced_before_must_be_named() -> None:
    """The last plain linear layer is then a hidden one."""
    model = net()
    LOST(rank=1, targets=("2",)).install(model)
    with pytest.raises(ValueError, match="2 was replaced before and may be the head; name the head, or put this layer"):
        output_layer(model, None)


def test_linear_layers_that_fit() -> None:
    assert [name for name, _ in linears(net(), lambda name: name == "0", "called 0")] == ["0"]
    with pytest.raises(ValueError, match="no linear layer called head; there are: 0, 2"):
        linears(net(), lambda name: False, "called head")
    with pytest.raises(ValueError, match="it has no linear layer at all"):
        linears(nn.Sequential(nn.ReLU()), lambda name: True, "called head")
    tied = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    tied["b"].weight = tied["a"].weight
    with pytest.raises(ValueError, match="a shares its weight with another part of the model"):
        linears(tied, lambda name: name == "a", "called a")
