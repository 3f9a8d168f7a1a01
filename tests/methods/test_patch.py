"""A patch can be looked at, saved and undone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from palimpsest.patch import Patch, difference


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_applied_restores_every_bit_also_after_an_error() -> None:
    net = model()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    patch = Patch({"weight": torch.full((2, 3), 1 / 3)}, "thirds")
    with pytest.raises(RuntimeError, match="inside"), patch.applied(net):
        torch.testing.assert_close(net.weight.detach(), before["weight"] + 1 / 3)
        raise RuntimeError("inside")
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_apply_scale_and_revert() -> None:
    net = model()
    before = net.bias.detach().clone()
    patch = Patch({"bias": torch.tensor([1.0, -1.0])})
    patch.apply(net, 2.0)
    torch.testing.assert_close(net.bias.detach(), before + torch.tensor([2.0, -2.0]))
    patch.revert(net)
    torch.testing.assert_close(net.bias.detach(), before + torch.tensor([1.0, -1.0]))


def test_a_task_vector_is_subtracted() -> None:
    """theta - alpha (reinforced - theta): nothing at alpha 0, to the last bit, and the change the other way at 1."""
    target, reinforced = model(), model()
    before = {n: p.detach().clone() for n, p in target.named_parameters()}
    change = torch.tensor([0.5, -0.25])
    with torch.no_grad():
        reinforced.bias.add_(change)
    vector = difference(before, reinforced, "trained further on the forget set")
    with vector.applied(target, -0.0):
        assert all(torch.equal(p, before[n]) for n, p in target.named_parameters())
    vector.apply(target, -1.0)
    torch.testing.assert_close(target.bias.detach(), before["bias"] - change)
    assert torch.equal(target.weight, before["weight"])


def test_a_fine_change_is_rounded_once_when_a_coarse_parameter_stores_it() -> None:
    net = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(net.weight, 1.0)
    change = 3 * 2.0**-9 + 2.0**-16  # 1 + change is just above the middle of two bfloat16; rounded first, it is a tie
    Patch({"weight": torch.full((1, 1), change / 3)}).apply(net, 3.0)
    assert net.weight.item() == torch.tensor(1.0 + change).bfloat16().item()


def test_difference_holds_only_what_changed_and_survives_a_file(tmp_path: Path) -> None:
    net = model()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    with torch.no_grad():
        net.bias.add_(torch.tensor([3.0, 4.0]))
    patch = difference(before, net, "why not")
    assert list(patch.delta) == ["bias"]
    assert patch.norms["bias"] == pytest.approx(5.0)
    patch.save(tmp_path / "patch.safetensors")
    again = Patch.load(tmp_path / "patch.safetensors")
    assert again.why == "why not" and torch.equal(again.delta["bias"], patch.delta["bias"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_difference_of_coarse_weights_leads_back_to_the_last_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(300, 200, bias=False).to(dtype)
    old = net.weight.detach().clone()
    with torch.no_grad():  # steps of all sizes, also some that change the exponent
        scale = torch.logspace(-4, 1, 300).to(dtype)
        net.weight.add_(torch.randn(200, 300, generator=generator).to(dtype) * scale)
    new = net.weight.detach().clone()
    patch = difference({"weight": old}, net)
    with torch.no_grad():
        net.weight.copy_(old)
    patch.apply(net)
    assert torch.equal(net.weight, new) and patch.delta["weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("delta", "said"),
    [({"other": torch.zeros(1)}, "no parameter"), ({"bias": torch.zeros(3)}, r"shape \(3,\)")],
)
def test_a_patch_for_another_model_is_refused_before_anything_changes(delta: dict, said: str) -> None:
    net = model()
    before = net.bias.detach().clone()
    with pytest.raises(ValueError, match=said):
        Patch({"weight": torch.ones(2, 3), **delta}).apply(net)
    assert torch.equal(net.bias, before) and bool((net.weight.abs() < 1).all())
