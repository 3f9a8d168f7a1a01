"""How far weights and features have moved."""

import pytest
import torch
from torch import nn

from palimpsest.drift import end_layers, feature_drift, relative_update, snapshot, update_ratio
from palimpsest.zoo.models import tiny_llama


def stack(layers=4):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))


def test_relative_update_of_the_hand_example():
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))
    start = snapshot(model)
    with torch.no_grad():
        model.w += torch.tensor([0.1, 0.2, 5.0])  # the weight that was 0 has no relative update
    assert relative_update(start, model, ["w"]) == pytest.approx(0.1)
    assert torch.equal(start["w"], torch.tensor([1.0, -2.0, 0.0]))


def test_nothing_to_compare_with_is_none():
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    assert relative_update(snapshot(model), model, ["weight"]) is None
    assert update_ratio(snapshot(model), model, ["weight"], ["bias"]) is None


def test_ratio_of_bottom_to_top():
    model = stack()
    start, (bottom, top) = snapshot(model), end_layers(model, 1)
    assert bottom == ["0.weight", "0.bias"] and top == ["3.weight", "3.bias"]
    with torch.no_grad():
        for name in bottom:
            model.get_parameter(name).mul_(1.3)
        for name in top:
            model.get_parameter(name).mul_(1.1)
    assert update_ratio(start, model, bottom, top) == pytest.approx(3.0, rel=1e-4)
    assert update_ratio(start, stack(), bottom, top) is None  # nothing moved


def test_layers_of_a_language_model():
    bottom, top = end_layers(tiny_llama()[0], 1)
    assert all(".layers.0." in name for name in bottom) and all(".layers.1." in name for name in top)
    with pytest.raises(ValueError, match="at most half"):
        end_layers(tiny_llama()[0], 2)
    with pytest.raises(ValueError, match="0 numbered layers"):
        end_layers(nn.Linear(2, 2), 1)


def test_feature_drift():
    before = torch.zeros(2, 3, dtype=torch.float64)
    assert float(feature_drift(before, before + torch.tensor([1.0, 2.0, 0.0]))) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="one set"):
        feature_drift(before, before[:1])
