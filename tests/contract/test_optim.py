"""What every optimizer keeps, whichever it is: found by its folder, used alone, from a recipe, and in both loops."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest import checkpoint, names, optim
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.card import docstring_of, parse_card
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Interrupted, Progress, Training, fit, make_optimizer
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.recipe_parts import compile_training
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama

NAMES = sorted(names.names("optim"))
SMALL: dict[str, Any] = {"rank": 3, "update_gap": 3, "density": 0.4}
"""Fields set, in every optimizer that has them, so that small matrices are split and few steps see every turn."""
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (12, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.0.mlp.up_proj.weight": (14, 8),
    "model.layers.0.mlp.experts": (2, 6, 4),
    "model.layers.1.mlp.down_proj.weight": (8, 14),
    "model.layers.1.mlp.gate.weight": (1, 8),
    "model.layers.1.mlp.nothing.weight": (0, 8),
    "model.norm.weight": (8,),
    "scale": (),
}
each = pytest.mark.parametrize("name", NAMES)


def built(name: str) -> Any:
    """Its settings as a recipe builds them, sized for small matrices."""
    settings = names.build(name, "optim")
    fields = {f.name for f in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{k: v for k, v in SMALL.items() if k in fields})


def weights(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter((0.3 * torch.randn(shape, generator=generator) - 1.0).to(dtype))
        for name, shape in SHAPES.items()
    }


def rosenbrock(parameters: dict[str, nn.Parameter]) -> Tensor:
    """Of neighbors along each tensor, 0 where every entry is 1."""
    parts = []
    for parameter in parameters.values():
        flat = parameter.flatten()
        parts.append(10 * (flat[1:] - flat[:-1] ** 2).square().sum() + (1 - flat).square().sum())
    return torch.stack(parts).sum()


def descend(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], steps: int) -> float:
    loss = rosenbrock(parameters)
    for _ in range(steps):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = rosenbrock(parameters)
    return float(loss.detach())


def same(first: dict[str, nn.Parameter], second: dict[str, nn.Parameter]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_folder_is_not_empty() -> None:
    assert {"badam", "fira", "frugal", "galore"} <= set(NAMES)


@each
def test_the_class_is_found_by_its_own_name(name: str) -> None:
    method = names.resolve(name, "optim")
    assert issubclass(method, torch.optim.Optimizer)
    assert getattr(optim, method.__name__) is method
    assert importlib.import_module(f"palimpsest.optim.{name}").METHOD is method


def test_no_other_name_is_found() -> None:
    for name in ("Nothing", "FIRA", "METHOD"):
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(optim, name)


@each
def test_it_descends(name: str) -> None:
    parameters = weights()
    optimizer = built(name)(parameters.items(), lr=0.04, weight_decay=0.01)
    start = float(rosenbrock(parameters).detach())
    before = {n: p.detach().clone() for n, p in parameters.items()}
    assert descend(optimizer, parameters, 120) < 0.3 * start
    assert all(p.numel() == 0 or not torch.equal(p, before[n]) for n, p in parameters.items()), "something stood still"
    assert all(torch.isfinite(p).all() for p in parameters.values())


@each
def test_without_a_gradient_nothing_moves(name: str) -> None:
    parameters = weights()
    optimizer = built(name)(parameters.items(), lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert same(parameters, weights())
    still = "model.layers.0.mlp.up_proj.weight"
    for _ in range(4):
        optimizer.zero_grad()
        rosenbrock({n: p for n, p in parameters.items() if n != still}).backward()
        optimizer.step()
    assert torch.equal(parameters[still], weights()[still])
    assert not torch.equal(parameters["scale"], weights()["scale"])


@each
def test_gradients_of_zero_do_no_harm(name: str) -> None:
    parameters = weights()
    optimizer = built(name)(parameters.items(), lr=0.1, weight_decay=0.0)
    for _ in range(5):
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert same(parameters, weights())
    assert descend(optimizer, parameters, 20) < float(rosenbrock(weights()).detach())


@each
def test_groups_have_rates_of_their_own(name: str) -> None:
    parameters = weights()
    still, moving = dict(list(parameters.items())[:5]), dict(list(parameters.items())[5:])
    optimizer = built(name)(
        [{"params": still.items(), "lr": 0.0}, {"params": moving.items()}], lr=0.01, weight_decay=0.1
    )
    descend(optimizer, parameters, 3)
    assert same(still, {n: weights()[n] for n in still})
    assert all(p.numel() == 0 or not torch.equal(p, weights()[n]) for n, p in moving.items())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = {n: nn.Parameter(p.detach().clone()) for n, p in parameters.items()}
    descend(optimizer, parameters, 3)
    assert same(parameters, before)


@each
def test_how_matrices_lie_in_memory_does_not_matter(name: str) -> None:
    ends = []
    for by_columns in (False, True):
        parameters = weights()
        if by_columns:
            parameters = {n: nn.Parameter(p.detach().t().contiguous().t()) for n, p in weights().items() if p.ndim == 2}
        optimizer = built(name)(parameters.items(), lr=0.01, weight_decay=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            rosenbrock(parameters).backward()
            for parameter in parameters.values():
                assert parameter.grad is not None
                parameter.grad = parameter.grad.contiguous()
            optimizer.step()
        ends.append(parameters)
    one, other = ends
    for key, value in other.items():
        torch.testing.assert_close(value, one[key], rtol=1e-5, atol=1e-6, msg=key)


@each
def test_a_closure_is_called_with_gradients(name: str) -> None:
    parameters = weights()
    optimizer = built(name)(parameters.items(), lr=0.01, weight_decay=0.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = rosenbrock(parameters)
        loss.backward()
        return float(loss.detach())

    start = optimizer.step(closure)
    assert start == float(rosenbrock(weights()).detach())
    assert closure() < start


@each
def test_the_global_generator_plays_no_part(name: str) -> None:
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        parameters = weights()
        descend(built(name)(parameters.items(), lr=0.01, weight_decay=0.0), parameters, 8)
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(parameters)
    assert same(*ends)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_state_to_the_same_bits(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Through a checkpoint on disk, before, at and after the end of a turn; the state is tensors and nothing else."""

    def fresh() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        parameters = weights(dtype)
        return parameters, built(name)(parameters.items(), lr=0.01, weight_decay=0.1)

    end, optimizer = fresh()
    descend(optimizer, end, 9)
    assert all(isinstance(v, Tensor) for state in optimizer.state.values() for v in state.values())
    for stop in (2, 3, 4):
        parameters, first = fresh()
        descend(first, parameters, stop)
        model = nn.Module()
        for i, parameter in enumerate(parameters.values()):
            model.register_parameter(str(i), parameter)
        checkpoint.save(tmp_path / str(stop), stop, model, first, {}, {})
        resumed, second = fresh()
        again = nn.Module()
        for i, parameter in enumerate(resumed.values()):
            again.register_parameter(str(i), parameter)
        found = checkpoint.latest(tmp_path / str(stop))
        assert found is not None
        checkpoint.restore(found, again, second, {})
        one, two = first.state_dict()["state"], second.state_dict()["state"]
        for index, state in one.items():
            for key, value in state.items():
                assert torch.equal(value, two[index][key]) and value.dtype == two[index][key].dtype, (index, key)
        descend(second, resumed, 9 - stop)
        assert same(resumed, end), f"stopped after {stop}"


@each
def test_it_builds_from_its_own_dump(name: str) -> None:
    for settings in (names.build(name, "optim"), built(name)):
        assert list(names.dump(settings)) == [name]
        assert names.build(names.dump(settings), "optim") == settings
        assert hash(names.build(names.dump(settings), "optim")) == hash(settings)
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.betas = (0.0, 0.0)


@each
def test_every_setting_reaches_the_optimizer(name: str) -> None:
    settings = built(name)
    made = settings(weights().items(), lr=0.25, weight_decay=0.5)
    assert type(made) is names.resolve(name, "optim")
    assert made.defaults["lr"] == 0.25 and made.defaults["weight_decay"] == 0.5
    for field in dataclasses.fields(settings):
        given, kept = getattr(settings, field.name), made.defaults[field.name]
        assert kept == (list(given) if isinstance(kept, list) else given), field.name


@each
def test_what_a_recipe_says_wrong_is_said_with_its_place(name: str) -> None:
    for fields, said in (
        ({"no_such_field": 1}, rf"^train\.optimizer: {name} has no field 'no_such_field'; it has: .*\.$"),
        ({"betas": "fast"}, rf"^train\.optimizer\.{name}\.betas: .*\.$"),
        ({"betas": [0.9, 1.5]}, rf"^train\.optimizer\.{name}: betas must lie in \[0, 1\), not .*\.$"),
    ):
        with pytest.raises(ValueError, match=said):
            names.build({name: fields}, "optim", place="train.optimizer")


@each
def test_negative_rates_are_refused(name: str) -> None:
    for lr, decay in ((-1.0, 0.0), (float("nan"), 0.0), (0.1, -1.0)):
        with pytest.raises(ValueError, match=r"must be .*\.$"):
            built(name)(weights().items(), lr=lr, weight_decay=decay)


@each
def test_a_sparse_gradient_is_refused_by_name(name: str) -> None:
    parameter = nn.Parameter(torch.ones(6, 5))
    optimizer = built(name)([("a.mlp.weight", parameter)], lr=0.1, weight_decay=0.0)
    parameter.grad = torch.ones(6, 5).to_sparse()
    with pytest.raises(ValueError, match=r"sparse.*a\.mlp\.weight"):
        optimizer.step()


# In a run


def llama() -> nn.Module:
    return tiny_llama(width=16)[0]


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@functools.cache
def whole(name: str) -> Tensor:
    return trained(name)


def trained(name: str, how: Callable[..., Any] = fit, **changes: Any) -> Tensor:
    """The weights after a run, as one vector."""
    model, adapter = llama(), CausalLM(tiny_llama()[1])
    roles = adapter.roles(task=[{"text": r["text"][:60]} for r in articles(8, seed=0)])
    settings = {"steps": 6, "batch": 4, "lr": 1e-2, "optimizer": built(name), "checkpoint_every": 2}
    extra = {k: changes.pop(k) for k in ("folder", "on_step") if k in changes}
    how(model, roles, on("task", CrossEntropy()), Training(**{**settings, **changes}), **extra)
    return vector(model)


@each
def test_a_recipe_names_it(name: str) -> None:
    from palimpsest.recipe import Stage

    stage = Stage(train={"steps": 1, "lr": 0.01, "weight_decay": 0.1, "optimizer": {name: {"betas": [0.8, 0.9]}}})
    training = compile_training(stage, "stages.0")
    assert training.optimizer == names.build({name: {"betas": (0.8, 0.9)}}, "optim")


@each
def test_the_loop_gives_it_names(name: str) -> None:
    optimizer = make_optimizer(Training(steps=1, lr=0.1, weight_decay=0.2, optimizer=built(name)), llama())
    by_name = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    assert set(by_name) == {n for n, _ in llama().named_parameters()}
    assert by_name["model.norm.weight"]["weight_decay"] == 0.0
    assert by_name["model.embed_tokens.weight"]["weight_decay"] == 0.2


def test_torch_has_no_use_for_names() -> None:
    for name in ("adamw", "sgd"):
        optimizer = make_optimizer(Training(steps=1, lr=0.1, optimizer=name), llama())
        assert not any("param_names" in group for group in optimizer.param_groups)


@pytest.mark.parametrize("cls", ["Adagrad", "AdamW", "NAdam"])
def test_a_class_of_torch_by_its_path(cls: str) -> None:
    """Its keyword-only arguments are fields, as those of any other optimizer."""
    settings = names.build({f"torch.optim:{cls}": {"maximize": True}}, "optim", allow_imports=True)
    made = make_optimizer(Training(steps=1, lr=0.25, weight_decay=0.5, optimizer=settings), llama())
    assert type(made) is getattr(torch.optim, cls)
    assert made.defaults["maximize"] is True and made.defaults["lr"] == 0.25 and made.defaults["weight_decay"] == 0.5
    assert names.build(names.dump(settings), "optim", allow_imports=True) == settings


@each
def test_a_run_stopped_and_started_again_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        trained(name, folder=tmp_path, on_step=stop)
    assert torch.equal(trained(name, folder=tmp_path), whole(name))


@each
def test_micro_batches_and_the_other_loop_change_nothing(name: str) -> None:
    """Up to rounding; entries that a rule moves by a sign may turn where their gradient is near 0."""
    end, start = whole(name), vector(llama())
    for other in (trained(name, accumulation=2), trained(name, fit_with_trainer)):
        assert float((other - end).norm() / (end - start).norm()) < 0.02


@each
def test_card(name: str) -> None:
    card = parse_card(docstring_of(names.names("optim")[name]))
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith(".") and "optimizer" in card.tags
