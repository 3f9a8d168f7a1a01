"""What a mask freezes does not move, whatever the optimizer adds to the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.mask import Mask, Masked
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=5e-4),
    "sgd": lambda p: torch.optim.SGD(p, lr=5e-2, momentum=0.9, weight_decay=5e-4),
    "nesterov": lambda p: torch.optim.SGD(p, lr=5e-2, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=5e-4),
}


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)


def random_mask(model: nn.Module, share: float = 0.5) -> Mask:
    generator = torch.Generator().manual_seed(2)
    return Mask({n: torch.rand(p.shape, generator=generator) < share for n, p in model.named_parameters()})


class OnlyGradients(Masked):
    """The deliberately broken mask: nothing is put back after the step."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        pass


def train(model: nn.Module, make: Make, masked: Masked | None, steps: int = 10, before: int = 0) -> None:
    """``steps`` under the mask, after ``before`` steps without it that leave momentum behind."""
    optimizer = make(model.parameters())
    inputs, labels = data()
    for step in range(before + steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        if masked is not None and step >= before:
            masked.before_step()
        optimizer.step()
        if masked is not None and step >= before:
            masked.after_step(optimizer)


def drift(model: nn.Module, start: dict[str, Tensor], mask: Mask) -> float:
    """The largest change of a frozen weight."""
    changes = [(p.detach() - start[n])[~mask.moves[n]].abs().max() for n, p in model.named_parameters()]
    return float(torch.stack(changes).max())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_entries_stay_bit_equal(name: str) -> None:
    model = net()
    mask = random_mask(model)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, OPTIMIZERS[name], Masked(mask, model))
    for n, p in model.named_parameters():
        assert torch.equal(p[~mask.moves[n]], start[n][~mask.moves[n]])
        assert not torch.equal(p[mask.moves[n]], start[n][mask.moves[n]])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masking_gradients_alone_leaks(name: str) -> None:
    """The same check has teeth: without putting weights back, weight decay moves the frozen ones."""
    model = net()
    mask = random_mask(model)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, OPTIMIZERS[name], OnlyGradients(mask, model))
    assert drift(model, start, mask) > 1e-6


def test_momentum_of_steps_before_the_mask_does_not_leak() -> None:
    model = net()
    mask = random_mask(model)

    def without_decay(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=5e-2, momentum=0.9)

    train(model, without_decay, None, steps=3)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = without_decay(model.parameters())
    inputs, labels = data()
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    masked = Masked(mask, model)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        masked.before_step()
        optimizer.step()
        masked.after_step(optimizer)
    assert drift(model, start, mask) == 0.0
    for n, p in model.named_parameters():
        assert not optimizer.state[p]["momentum_buffer"][~mask.moves[n]].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_mask_that_lets_all_move_changes_no_bit(name: str) -> None:
    plain, masked = net(), net()
    train(plain, OPTIMIZERS[name], None)
    train(masked, OPTIMIZERS[name], Masked(random_mask(masked, share=2.0), masked))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), masked.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_mask_that_lets_nothing_move_keeps_the_model(name: str) -> None:
    model, start = net(), net()
    train(model, OPTIMIZERS[name], Masked(random_mask(model, share=0.0), model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters()))


def test_parameters_that_the_mask_does_not_name_are_frozen() -> None:
    model, start = net(), net()
    mask = Mask({"2.bias": torch.ones(3, dtype=torch.bool)})
    train(model, OPTIMIZERS["adamw"], Masked(mask, model))
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, start.get_parameter(n))]
    assert moved == ["2.bias"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loop_keeps_frozen_weights(optimizer: str) -> None:
    """Through ``fit``: clipping, weight decay and momentum on."""
    inputs, labels = data()
    rows = [{"inputs": x, "label": int(y)} for x, y in zip(inputs, labels)]
    model = net()
    mask = random_mask(model)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    training = Training(steps=6, batch=8, lr=1e-2, weight_decay=5e-4, optimizer=optimizer)
    fit(model, Roles(Classifier(3), {"task": rows}), on("task", CrossEntropy()), training, mask=mask)
    assert drift(model, start, mask) == 0.0
    assert not torch.equal(model[0].weight, start["0.weight"])


def test_a_mask_for_another_model_is_refused() -> None:
    model = net()
    with pytest.raises(ValueError, match="no parameter of this model"):
        Masked(Mask({"9.weight": torch.ones(1, dtype=torch.bool)}), model)
    with pytest.raises(ValueError, match="has shape"):
        Masked(Mask({"0.weight": torch.ones(2, 2, dtype=torch.bool)}), model)


def test_saving_and_loading(tmp_path: Path) -> None:
    mask = Mask(random_mask(net()).moves, "half of them")
    mask.save(tmp_path / "mask.safetensors")
    again = Mask.load(tmp_path / "mask.safetensors")
    assert again.why == "half of them"
    assert again.fraction == mask.fraction
    assert all(torch.equal(again.moves[n], m) and again.moves[n].dtype == torch.bool for n, m in mask.moves.items())


# Buffers: running statistics of batch normalization


def normalized() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_module_that_is_held_still_keeps_its_statistics(optimizer: str) -> None:
    """Through ``fit``, with weight decay and momentum: all of module 1 stays, bit for bit, and module 4 moves."""
    model = normalized()
    moves = {n: torch.full(p.shape, n.startswith("4.")) for n, p in model.named_parameters()}
    start = {n: v.clone() for n, v in model.state_dict().items()}
    inputs, labels = data()
    rows = [{"inputs": 3 * x + 1, "label": int(y)} for x, y in zip(inputs, labels)]
    modes = []
    model[1].register_forward_hook(lambda module, *_: modes.append((module.training, model[4].training)))
    training = Training(steps=6, batch=8, lr=1e-2, weight_decay=0.1, optimizer=optimizer)
    fit(
        model,
        Roles(Classifier(3), {"task": rows}),
        on("task", CrossEntropy()),
        training,
        mask=Mask(moves, still=frozenset({"1"})),
    )
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, start[n])}
    assert moved == {n for n in start if n.startswith("4.")}
    assert set(modes) == {(False, True)}


def test_without_it_the_statistics_of_frozen_layers_follow_the_data() -> None:
    """The fault that ``still`` is there for."""
    model = normalized()
    start = {n: v.clone() for n, v in model.state_dict().items()}
    inputs, labels = data()
    rows = [{"inputs": 3 * x + 1, "label": int(y)} for x, y in zip(inputs, labels)]
    mask = Mask({"5.bias": torch.ones(3, dtype=torch.bool)})
    fit(model, Roles(Classifier(3), {"task": rows}), on("task", CrossEntropy()), Training(steps=2, batch=8), mask=mask)
    assert not torch.equal(model[1].running_mean, start["1.running_mean"])


def test_still_statistics_with_affine_weights_that_move() -> None:
    """Statistics and affine weights are frozen apart; a buffer that moves in eval mode too is put back."""
    model = normalized()
    mask = Mask({"1.weight": torch.ones(8, dtype=torch.bool)}, still=frozenset({"1", "4"}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    masked, start = Masked(mask, model), {n: v.clone() for n, v in model.state_dict().items()}
    inputs, labels = data()
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        masked.before_forward()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        model[4].running_var.add_(1.0)
        masked.before_step()
        optimizer.step()
        masked.after_step(optimizer)
    assert {n for n, v in model.state_dict().items() if not torch.equal(v, start[n])} == {"1.weight"}
    assert model.training and model[0].training


def test_a_still_module_must_exist_and_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'9' still, which is no module"):
        Masked(Mask({}, still=frozenset({"9"})), normalized())
    mask = Mask({"1.weight": torch.ones(8, dtype=torch.bool)}, "norms", frozenset({"4", "1"}))
    mask.save(tmp_path / "mask.safetensors")
    assert Mask.load(tmp_path / "mask.safetensors").still == {"1", "4"}
