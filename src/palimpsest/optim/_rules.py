"""Update rules for lists of tensors: states and gradients in, directions out.

A rule creates in each state what it needs, and moves it.  It returns one new tensor a gradient, and the number that
each is to be multiplied with beside the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Directions", "Rule", "State", "adam", "adam_plain_eps", "lion", "momentum"]

State = dict[str, Tensor]
"""What an optimizer keeps of one parameter."""
Directions = tuple[list[Tensor], list[float]]
"""Directions and their factors."""
Rule = Callable[[Sequence[State], list[Tensor], dict[str, Any]], Directions]
"""(states, gradients, parameter group) -> directions."""


def adam(states: Sequence[State], gradients: list[Tensor], group: dict[str, Any]) -> Directions:
    """m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), as torch's AdamW has it."""
    return _adam(states, gradients, group, corrected=True)


def adam_plain_eps(states: Sequence[State], gradients: list[Tensor], group: dict[str, Any]) -> Directions:
    """m / (sqrt(v) + eps), the factor being sqrt(1 - b2^t) / (1 - b1^t): eps beside the root as it is."""
    return _adam(states, gradients, group, corrected=False)


def _adam(states: Sequence[State], gradients: list[Tensor], group: dict[str, Any], *, corrected: bool) -> Directions:
    beta1, beta2 = group["betas"]
    steps = _counted(states)
    first, second = _kept("exp_avg", states, gradients), _kept("exp_avg_sq", states, gradients)
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    roots = torch._foreach_sqrt(second)
    growth = [(1 - beta2**t) ** 0.5 for t in steps]
    # Multiplied by its root's correction, eps counts as if it had been added after the correction.
    torch._foreach_add_(roots, [group["eps"] * g if corrected else group["eps"] for g in growth])
    return list(torch._foreach_div(first, roots)), [g / (1 - beta1**t) for g, t in zip(growth, steps)]


def lion(states: Sequence[State], gradients: list[Tensor], group: dict[str, Any]) -> Directions:
    """sign(b1 m + (1 - b1) g), and then m = b2 m + (1 - b2) g."""
    beta1, beta2 = group["betas"]
    averages = _kept("exp_avg", states, gradients)
    mixed = torch._foreach_lerp(averages, gradients, 1 - beta1)
    torch._foreach_lerp_(averages, gradients, 1 - beta2)
    return list(torch._foreach_sign(mixed)), [1.0] * len(gradients)


def momentum(states: Sequence[State], gradients: list[Tensor], group: dict[str, Any]) -> Directions:
    """m = b1 m + g, which starts at g."""
    buffers = _kept("exp_avg", states, gradients)
    torch._foreach_mul_(buffers, group["betas"][0])
    torch._foreach_add_(buffers, gradients)
    return [buffer.clone() for buffer in buffers], [1.0] * len(gradients)


def _kept(name: str, states: Sequence[State], gradients: Sequence[Tensor]) -> list[Tensor]:
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
        state["step"] += 1
    return [int(state["step"]) for state in states]
