"""Spends state on a share of each gradient, chosen anew every few steps, and moves the rest by its sign.

    every T steps:  choose a part of the space, and forget the state of the old one
    U = -lr up(rule(down(G))) - lr s sign(G - up(down(G))),   W <- (1 - lr wd) W + U

The part is whole matrices (blocks), columns, rows or entries, or a subspace (svd, random); the rule is Adam, Lion or
momentum; instead of the sign the rest itself may be applied, or nothing.

Paper: FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training (Zmushko et al., 2024),
    arXiv 2411.07837.
Code: fzmushko/FRUGAL.
Tags: optimize, optimizer, pre-training, fine-tuning, language-model.
Needs: parameters with names, or groups that say ``project``. Embeddings, head and norms always have full state.
Differs: faults of the released code are not repeated: momentum starts at the gradient, and blocks keep their moments
    where ``reset`` is off and they stay active. In a subspace what is rounding noise beside the gradient has no sign.
    A clock of steps, and not Adam's own count, says when to choose again. The orders mirror and randperm are left out.
See: ``galore`` (a subspace, nothing for the rest), ``badam`` (blocks, nothing for the rest), ``fira``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from palimpsest.optim._part_optimizer import PartOptimizer, Work, batches
from palimpsest.optim._rules import Rule, State, adam, lion, momentum
from palimpsest.optim._split_optimizer import MODULES, Group, Member, Parameters, common, one_of
from palimpsest.optim._splitter import SPLITS, Order, Split, Subspace, blocks

__all__ = ["FRUGAL", "METHOD", "free_direction"]

NOISE = 1e-6
"""Beside the gradient's largest entry, what is left of an entry of a subspace's rest by rounding."""
RULES: Mapping[str, Rule] = {"adam": adam, "lion": lion, "momentum": momentum}


def free_direction(rest: Tensor, outside: str, noise: Tensor | float | None = None) -> Tensor:
    """What moves an entry without state: its sign (0 up to ``noise``) or itself; [..., m, n] -> [..., m, n].

    ``noise`` is above 0.
    """
    if outside != "sign":
        return rest
    if noise is None:
        return rest.sign()
    multiples = rest / noise
    return torch.hardshrink(multiples, 1.0, out=multiples).sign_()


def rounding(gradients: Tensor) -> Tensor:
    """What rounding leaves of an entry of a subspace's rest, [..., m, n] -> [..., 1, 1]."""
    largest = torch.maximum(gradients.amax((-2, -1), keepdim=True), -gradients.amin((-2, -1), keepdim=True))
    kind = torch.finfo(gradients.dtype)
    return (NOISE * largest).clamp_min_(max(kind.tiny * kind.eps, 1e-38))  # above 0, also for a gradient of zero


class FRUGAL(PartOptimizer):
    """``density`` is the share that has state, chosen anew every ``update_gap`` T steps.

    ``outside_scale`` is s, ``scale`` multiplies both parts, and ``reset`` says whether the old state is forgotten.
    ``order`` is the order in which blocks have their turn.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        density: float = 0.25,
        update_gap: int = 200,
        splitter: Literal["blocks", "columns", "rows", "entries", "svd", "random"] = "blocks",
        order: Order = "random",
        state_rule: Literal["adam", "lion", "momentum"] = "adam",
        outside: Literal["sign", "gradient", "nothing"] = "sign",
        outside_scale: float = 1.0,
        scale: float = 1.0,
        reset: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        modules: tuple[str, ...] = MODULES,
        seed: int = 0,
    ) -> None:
        if not 0 <= density <= 1:
            raise ValueError(f"density is a share in [0, 1], not {density}.")
        one_of("splitter", splitter, ("blocks", *SPLITS))
        one_of("order", order, get_args(Order))
        one_of("state_rule", state_rule, RULES)
        one_of("outside", outside, ("sign", "gradient", "nothing"))
        for name, number in (("outside_scale", outside_scale), ("scale", scale)):
            if not number >= 0:
                raise ValueError(f"{name} must be at least 0, not {number}.")
        own = {"density": density, "splitter": splitter, "order": order, "state_rule": state_rule, "outside": outside}
        more = {"outside_scale": outside_scale, "scale": scale, "reset": reset, "seed": seed}
        super().__init__(params, {**common(lr, weight_decay, betas, eps, update_gap, modules), **own, **more})

    def _rule(self, group: Group) -> Rule:
        return RULES[group["state_rule"]]

    def _new_split(self, group: Group, gradient: Tensor, generator: torch.Generator) -> Split:
        kind = SPLITS[group["splitter"]]
        return kind.refresh(gradient, kind.size_of(gradient.shape, group["density"]), generator)

    def _old_split(self, group: Group, chosen: Tensor, shape: torch.Size) -> Split:
        return SPLITS[group["splitter"]](chosen, shape)

    def _renewed(self, group: Group, state: State) -> None:
        if group["reset"]:
            chosen = state["chosen"]
            state.clear()
            state["chosen"] = chosen

    def _update(self, group: Group, states: Sequence[State], split: Split, work: Work) -> Tensor:
        update, keep = work.gradients, 0.0
        if group["outside"] != "nothing" and not split.complete:
            noise = rounding(update) if isinstance(split, Subspace) else None
            update = free_direction(split.residual_(update, work.parts), group["outside"], noise)
            keep = group["scale"] * group["outside_scale"]
        split.add_up(update, work.directions, group["scale"], keep)
        return update

    def _step_split(self, group: Group, members: Sequence[Member]) -> None:
        if group["splitter"] != "blocks":
            super()._step_split(group, members)
            return
        count = len(group["params"])
        period, within = divmod(group["steps"], group["update_gap"])
        active = blocks(count, round(group["density"] * count), group["order"], period, group["seed"])
        idle = [m for m in members if m.place not in active]
        for member in members if group["reset"] and not within else idle:
            member.state.clear()
        self._step_whole(group, [m for m in members if m.place in active], group["scale"])
        rate = group["lr"] * group["scale"] * group["outside_scale"]
        for batch in batches(idle):
            weights = [m.weight for m in batch]
            self._decay(group, weights)
            if group["outside"] != "nothing":
                directions = [free_direction(m.gradient, group["outside"]) for m in batch]
                torch._foreach_add_(weights, directions, alpha=-rate)


METHOD = FRUGAL
