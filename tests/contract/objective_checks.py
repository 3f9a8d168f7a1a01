"""What every objective promises, as functions that raise AssertionError; the tests beside this file run them.

A method says in its card's Tags which kinds of model it is for, and is checked on each of them. A new method needs
no line here; a new kind of model needs one function that builds a ``Setting`` for it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor, nn

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.card import docstring_of, parse_card
from palimpsest.objective import WEIGHTS, Counts, Objective, Term, Total, count_items, evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.reference import Copy, Frozen, Reference
from palimpsest.roles import RoleBatch, Roles
from palimpsest.step import Step
from palimpsest.views import Unit

ROWS = 6
ROLES = ("forget", "second", "third", "fourth")
TASK = "task"
"""The role beside a penalty on the parameters, and the one from which the penalty learns what matters."""


@dataclass(frozen=True)
class Setting:
    """A model that has drifted a little from its reference, and one batch of every role the objective is on."""

    objective: Objective
    model: nn.Module
    reference: Reference
    teacher: Reference
    total: Total
    states: dict[str, nn.Module | None]
    batch: RoleBatch

    @property
    def term(self) -> Term:
        return self.total.terms[0]


# Kinds of model


@cache
def _language_model() -> tuple[nn.Module, Any]:
    from palimpsest.zoo.models import tiny_llama

    model, tokenizer = tiny_llama(300, layers=2, width=32)
    return model, CausalLM(tokenizer)


def _language_rows(role: int) -> list[dict[str, Any]]:
    """Prompts that all roles share, and answers of their own, of different lengths."""
    return [
        {"prompt": f"Question {i}" + "?" * (i % 4), "completion": f" {'xyzw'[role] * (1 + (i + role) % 3)} is{i}"}
        for i in range(ROWS)
    ]


@cache
def _classifier() -> tuple[nn.Module, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6))
    return model, Classifier(6, features="1")


def _classifier_rows(role: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(role)
    inputs = torch.randn(ROWS, 5, generator=generator)
    return [{"inputs": x, "label": (i + role) % 4} for i, x in enumerate(inputs)]


@cache
def _adapted_model() -> tuple[nn.Module, Any]:
    """A language model under a fresh LoRA adapter, which alone is trained."""
    from peft import LoraConfig, get_peft_model

    model, adapter = _language_model()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(copy.deepcopy(model), config).eval(), adapter


def _of_an_earlier_stage(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same form; of a classifier's, other classes."""
    return [{**row, "label": 4 + i % 2} if "label" in row else row for i, row in enumerate(rows)]


KINDS: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], Callable[[int], list[dict[str, Any]]]]] = {
    "language-model": (_language_model, _language_rows),
    "classifier": (_classifier, _classifier_rows),
    "adapter": (_adapted_model, _language_rows),
}
"""Tag of a card -> (model and adapter, rows of the role with a number)."""


def kinds_of(name: str) -> list[str]:
    """The kinds of model that a method's card names."""
    tags = parse_card(docstring_of(names.names("objectives")[name])).tags
    return [kind for kind in KINDS if kind in tags]


def drift(model: nn.Module, size: float, seed: int) -> None:
    """Adds noise of standard deviation ``size`` to every weight that is trained, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def setting(objective: Objective, kind: str) -> Setting:
    """``objective`` on a model of that kind."""
    build, rows = KINDS[kind]
    original, adapter = build()
    model = copy.deepcopy(original)
    other = copy.deepcopy(original)
    drift(other, 0.05, seed=1)
    on_roles = (TASK,) if objective.unit == "parameter" else ROLES[: objective.arity]
    roles = Roles(adapter, {role: rows(i) for i, role in enumerate(on_roles)})
    if objective.unit == "parameter":  # a penalty stands beside a term on data
        total = on(WEIGHTS, objective) + on(on_roles[0], CrossEntropy())
    else:
        total = Total((on(on_roles, objective),))
    earlier = Roles(adapter, {role: _of_an_earlier_stage(rows(i)) for i, role in enumerate(on_roles)})
    previous = _first_stage(total, original, earlier, on_roles[0], 0.1 if kind == "adapter" else 0.0)
    states = {t.name: t.objective.prepare(model, roles, on_roles[0], previous.get(t.name)) for t in total.terms}
    reference = Copy(model)
    drift(model, 0.2 if kind == "adapter" else 0.02, seed=2)  # an adapter starts as no change at all
    (batch,) = roles.window(0, ROWS, seed=0, pairs=total.pairs)
    return Setting(objective, model, reference, Frozen(other), total, states, batch)


def _first_stage(
    total: Total, original: nn.Module, roles: Roles, role: str, moved: float
) -> dict[str, dict[str, Tensor]]:
    """What the objectives' states leave to the stage that is checked: some methods only remember in their first."""
    model = copy.deepcopy(original)
    states = {t.name: t.objective.prepare(model, roles, role) for t in total.terms}
    drift(model, moved, seed=3)
    return {n: {k: v.detach().clone() for k, v in s.state_dict().items()} for n, s in states.items() if s is not None}


# Measuring


def measure(s: Setting, batch: RoleBatch, counts: Counts | None = None, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """The term's loss, and its gradient on all trainable weights as one vector."""
    companions = {"reference": s.reference, "teacher": s.teacher}
    losses = evaluate(s.total, s.model, batch, counts=counts, states=s.states, share=share, **companions)
    loss = losses.terms[s.term.name]
    parameters = [p for p in s.model.parameters() if p.requires_grad]
    assert loss.requires_grad, "the loss does not depend on the weights"
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradient = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters)])
    return loss.detach(), gradient


def changed(batch: RoleBatch, change: Callable[[str, Tensor, int], Tensor]) -> RoleBatch:
    """Every tensor of every role through ``change(column, values, T)``."""
    new = {}
    for role, columns in batch.items():
        width = columns["input_ids"].shape[1] if "input_ids" in columns else -1
        new[role] = {name: change(name, value.clone(), width) for name, value in columns.items()}
    return RoleBatch(new, batch.adapter)


def rows_of(batch: RoleBatch, rows: Sequence[int]) -> RoleBatch:
    """The named rows of every role."""
    return changed(batch, lambda _, value, __: value[list(rows)])


def padded(batch: RoleBatch, extra: int) -> RoleBatch:
    """``extra`` columns more on the right, which are not text: any token may stand there."""
    fill = {"labels": -100, "input_ids": 7}

    def change(name: str, value: Tensor, width: int) -> Tensor:
        if value.ndim < 2 or value.shape[1] != width:
            return value
        more = value.new_full((len(value), extra, *value.shape[2:]), fill.get(name, 0))
        return torch.cat([value, more], 1)

    return changed(batch, change)


def left_padded(batch: RoleBatch, extra: int) -> RoleBatch:
    """All padding of ``padded`` moved to the left."""
    long = padded(batch, extra)
    new = {}
    for role, columns in long.items():
        mask = columns["attention_mask"]
        shifts = (mask.shape[1] - mask.sum(1)).tolist()
        new[role] = {
            name: torch.stack([row.roll(k, 0) for row, k in zip(value, shifts)])
            if value.shape[1:2] == mask.shape[1:]
            else value
            for name, value in columns.items()
        }
    return RoleBatch(new, batch.adapter)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], tolerance: float, what: str) -> None:
    """Equal losses and gradients, to ``tolerance`` relative to their size."""
    (loss, gradient), (loss2, gradient2) = a, b
    off = float((loss - loss2).abs() / loss.abs().clamp_min(1e-2))
    assert off <= tolerance, f"{what} changes the loss by {off:.1e} of its size ({float(loss)} to {float(loss2)})"
    off = float((gradient - gradient2).norm() / gradient.norm().clamp_min(1e-6))
    assert off <= 10 * tolerance, f"{what} changes the gradient by {off:.1e} of its norm"


# The promises


def is_finite(s: Setting) -> None:
    loss, gradient = measure(s, s.batch)
    assert torch.isfinite(loss), f"the loss is {float(loss)}"
    assert torch.isfinite(gradient).all(), "the gradient is not finite"


def moves_weights(s: Setting) -> None:
    _, gradient = measure(s, s.batch)
    assert gradient.norm() > 1e-6, f"the gradient has the norm {float(gradient.norm()):.1e}"


def follows_weights(s: Setting) -> None:
    """A loss that stays where it is while the weights move is compared with itself."""
    loss, gradient = measure(s, s.batch)
    moved = dataclasses.replace(s, model=copy.deepcopy(s.model))
    step = -0.3 * gradient / gradient.norm()
    trainable = [p for p in moved.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, part in zip(trainable, step.split([p.numel() for p in trainable])):
            parameter.add_(part.view_as(parameter))
    after, _ = measure(moved, s.batch)
    assert abs(float(after - loss)) > 1e-5 * max(1e-2, abs(float(loss))), "the loss does not follow the weights"


def ignores_right_padding(s: Setting) -> None:
    same(measure(s, s.batch), measure(s, padded(s.batch, 5)), 1e-5, "padding on the right")


def ignores_left_padding(s: Setting) -> None:
    same(measure(s, s.batch), measure(s, left_padded(s.batch, 3)), 1e-4, "padding on the left")


def ignores_order_of_rows(s: Setting) -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).tolist()
    assert order != sorted(order)
    same(measure(s, s.batch), measure(s, rows_of(s.batch, order)), 1e-5, "another order of the rows")


def ignores_batch_split(s: Setting) -> None:
    """One window as micro-batches of unequal size, divided by the items of the whole window.

    An objective that compares the rows of a batch must refuse it.
    """
    counts = count_items(s.total, [s.batch])
    parts = [rows_of(s.batch, rows) for rows in ([0], [1, 2, 3], [4, 5])]
    if s.objective.couples:
        try:
            Step(s.total, s.model).count(parts)
        except ValueError as error:
            assert "set train.accumulation to 1" in str(error)
            return
        raise AssertionError("it compares the rows of a batch, but micro-batches were taken")
    found = [measure(s, part, counts, share=1 / len(parts)) for part in parts]
    summed = torch.stack([loss for loss, _ in found]).sum(), torch.stack([g for _, g in found]).sum(0)
    same(measure(s, s.batch), summed, 1e-5, "splitting the batch")


def states_its_unit(s: Setting) -> None:
    unit = s.objective.unit
    assert unit in get_args(Unit), f"the unit {unit!r} is none of {get_args(Unit)}"
    try:
        measure(s, s.batch)
    except ValueError as error:  # evaluate() compares shapes
        raise AssertionError(str(error)) from error


def is_deterministic(s: Setting) -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(measure(s, s.batch))
    (loss, gradient), (loss2, gradient2) = found
    assert torch.equal(loss, loss2) and torch.equal(gradient, gradient2), "it depends on the global random state"


def leaves_the_batch_alone(s: Setting) -> None:
    before = changed(s.batch, lambda _, value, __: value)
    measure(s, s.batch)
    for role, columns in before.items():
        assert columns.keys() == s.batch[role].keys(), f"the columns of {role} changed"
        for name, value in columns.items():
            assert torch.equal(value, s.batch[role][name]), f"{role}/{name} was changed in place"


def is_frozen(s: Setting) -> None:
    cls = type(s.objective)
    assert isinstance(s.objective, Objective) and dataclasses.is_dataclass(cls), (
        f"{cls.__name__} is no objective dataclass"
    )
    assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"  # type: ignore[attr-defined]
    assert hash(s.objective) == hash(copy.deepcopy(s.objective)), "it has a field that cannot be hashed"


CHECKS: dict[str, tuple[Callable[[Setting], None], tuple[str, ...]]] = {
    check.__name__: (check, kinds)
    for check, kinds in (
        (is_finite, tuple(KINDS)),
        (moves_weights, tuple(KINDS)),
        (follows_weights, tuple(KINDS)),
        (ignores_right_padding, ("language-model",)),
        (ignores_left_padding, ("language-model",)),
        (ignores_order_of_rows, tuple(KINDS)),
        (ignores_batch_split, tuple(KINDS)),
        (states_its_unit, tuple(KINDS)),
        (is_deterministic, tuple(KINDS)),
        (leaves_the_batch_alone, tuple(KINDS)),
        (is_frozen, tuple(KINDS)),
    )
}
"""Name -> (check, the kinds of model on which it means something)."""
