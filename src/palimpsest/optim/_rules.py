"""Update rules for lists of tensors: targets, which may be weights or zeros, are moved against directions.

A rule creates in each state what it needs, and moves it.  A target moves by ``rate`` times its direction, times the
factor that is returned for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rule", "State", "Tensors", "adam", "adam_plain_eps", "lion", "momentum"]

Tensors = list[Tensor] | tuple[Tensor, ...]
State = dict[str, Tensor]
"""What an optimizer keeps of one parameter."""
Settings = dict[str, Any]
"""A parameter group."""
Rule = Callable[[Tensors, Sequence[State], Tensors, Settings, float], list[float]]
"""(targets, states, gradients, group, rate) -> factors."""


def adam(targets: Tensors, states: Sequence[State], gradients: Tensors, group: Settings, rate: float) -> list[float]:
    """m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), as torch's AdamW has it."""
    return _adam(targets, states, gradients, group, rate, corrected=True)


def adam_plain_eps(
    targets: Tensors, states: Sequence[State], gradients: Tensors, group: Settings, rate: float
) -> list[float]:
    """m / (sqrt(v) + eps), the factor being sqrt(1 - b2^t) / (1 - b1^t): eps beside the root as it is."""
    return _adam(targets, states, gradients, group, rate, corrected=False)


def _adam(
    targets: Tensors, states: Sequence[State], gradients: Tensors, group: Settings, rate: float, *, corrected: bool
) -> list[float]:
    beta1, beta2 = group["betas"]
    steps = _counted(states)
    first, second = _kept("exp_avg", states, gradients), _kept("exp_avg_sq", states, gradients)
    growth = [(1 - beta2**t) ** 0.5 for t in steps]
    factors = [g / (1 - beta1**t) for g, t in zip(growth, steps)]
    if len(set(steps)) == 1 and _fusible(targets, gradients, first, second):
        count = torch.full((), float(steps[0]), device=targets[0].device)
        eps = group["eps"] / (1.0 if corrected else growth[0])  # the kernel's stands beside the corrected root
        own = {"lr": rate, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": 0.0}
        counts = [count] * len(steps)
        torch._fused_adamw_(targets, gradients, first, second, [], counts, **own, amsgrad=False, maximize=False)
        return factors
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    roots = torch._foreach_sqrt(second)
    # Multiplied by its root's correction, eps counts as if it had been added after the correction.
    torch._foreach_add_(roots, [group["eps"] * g if corrected else group["eps"] for g in growth])
    torch._foreach_addcdiv_(targets, first, roots, [-rate * factor for factor in factors])
    return factors


def _fusible(targets: Tensors, *others: Tensors) -> bool:
    """Whether torch's kernel for AdamW does the same in one pass: it walks through memory, whatever the strides are."""
    kinds = {(t.device, t.dtype) for t in targets}
    device = targets[0].device.type
    return len(kinds) == 1 and device in ("cpu", "cuda") and all(map(Tensor.is_contiguous, chain(targets, *others)))


def lion(targets: Tensors, states: Sequence[State], gradients: Tensors, group: Settings, rate: float) -> list[float]:
    """sign(b1 m + (1 - b1) g), and then m = b2 m + (1 - b2) g."""
    beta1, beta2 = group["betas"]
    averages = _kept("exp_avg", states, gradients)
    mixed = torch._foreach_lerp(averages, gradients, 1 - beta1)
    torch._foreach_lerp_(averages, gradients, 1 - beta2)
    torch._foreach_add_(targets, torch._foreach_sign(mixed), alpha=-rate)
    return [1.0] * len(states)


def momentum(
    targets: Tensors, states: Sequence[State], gradients: Tensors, group: Settings, rate: float
) -> list[float]:
    """m = b1 m + g, which starts at g."""
    buffers = _kept("exp_avg", states, gradients)
    torch._foreach_mul_(buffers, group["betas"][0])
    torch._foreach_add_(buffers, gradients)
    torch._foreach_add_(targets, buffers, alpha=-rate)
    return [1.0] * len(states)


def _kept(name: str, states: Sequence[State], gradients: Tensors) -> list[Tensor]:
    """That tensor of every state, zeros at first."""
    for state, gradient in zip(states, gradients):
        if name not in state:
            state[name] = torch.zeros_like(gradient)
    return [state[name] for state in states]


def _counted(states: Sequence[State]) -> list[int]:
    """The number of each state's update, from 1; kept on the CPU, where reading it makes no GPU wait."""
    for state in states:
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
    counts = [state["step"] for state in states]
    torch._foreach_add_(counts, 1.0)
    return [int(count) for count in counts]
