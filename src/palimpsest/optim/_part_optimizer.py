"""Optimizers that keep state for a part of each matrix's gradient: a subspace, columns, rows or entries."""

from __future__ import annotations

import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palimpsest.optim._rules import Rule, State, adam_plain_eps
from palimpsest.optim._split_optimizer import Group, Member, Parameters, SplitOptimizer, distributed
from palimpsest.optim._splitter import Leading, Split, draw

__all__ = ["PartOptimizer", "SubspaceAdam", "Work", "batches"]


AT_ONCE = {"cpu": 2**20}
"""Entries of the matrices that are stepped together, whose gradients are copied: few enough for a CPU's cache, and
many enough that calls are few."""
AT_ONCE_ELSEWHERE = 2**24
"""On other devices: enough to fill them, and little beside the weights."""


@dataclass(frozen=True, eq=False)
class Work:
    """Of B matrices: a copy of their gradients [B, m, n] to be worked in, its parts, and the rule's directions for the
    parts, each of which has been multiplied by ``factor``."""

    gradients: Tensor
    parts: Tensor
    directions: Tensor
    factor: float


class PartOptimizer(SplitOptimizer):
    """A method says how a matrix is split, and how it moves once the rule has spoken about its part."""

    @abstractmethod
    def _new_split(self, group: Group, gradient: Tensor, generator: torch.Generator) -> Split:
        """A new choice for one matrix."""

    @abstractmethod
    def _old_split(self, group: Group, chosen: Tensor, shape: torch.Size) -> Split:
        """The split that a tensor of the state, or several of them stacked, stand for."""

    @abstractmethod
    def _update(self, group: Group, states: Sequence[State], split: Split, work: Work) -> Tensor:
        """What B matrices move against at the rate 1, [B, m, n]."""

    def _renewed(self, group: Group, state: State) -> None:
        """After a new choice: the moments stay, unless a method says otherwise."""

    def _step_split(self, group: Group, members: Sequence[Member]) -> None:
        """One step of all matrices, those of one kind together."""
        spread = [m for m in members if distributed(m.weight) is not None]
        here = [m for m in members if distributed(m.weight) is None] if spread else members
        for member in here:
            self._renew(group, member)
        for batch in batches(here):
            self._step_batch(group, batch)
        for member in spread:  # over processes, by FSDP2: gathered one by one
            whole = member.gathered()
            self._renew(group, whole)
            self._step_batch(group, [whole])
            whole.put_back()

    def _renew(self, group: Group, member: Member) -> None:
        """A new choice for a matrix that has none, and for all of them every ``update_gap`` steps."""
        period, within = divmod(group["steps"], group["update_gap"])
        if not within or "chosen" not in member.state:
            split = self._new_split(group, member.gradient, draw(group.get("seed", 0), "split", period, member.place))
            member.state["chosen"] = split.chosen
            self._renewed(group, member.state)

    def _step_batch(self, group: Group, batch: Sequence[Member]) -> None:
        """The rule on the parts of matrices of one kind, and what follows from it for the whole of them."""
        states, weights = [m.state for m in batch], [m.weight for m in batch]
        gradients = torch.stack([m.gradient for m in batch])  # [B, m, n]
        split = self._old_split(group, torch.stack([s["chosen"] for s in states]), gradients.shape[1:])
        parts = split.down(gradients)
        directions = torch.zeros_like(parts)
        factors = self._rule(group)(directions.unbind(), states, parts.unbind(), group, -1.0)
        update = self._update(group, states, split, Work(gradients, parts, directions, factors[0]))
        if self.decay_first:
            self._decay(group, weights)
        torch._foreach_add_(weights, update.unbind(), alpha=-group["lr"])
        if not self.decay_first:
            self._decay(group, weights)


def _callers_level() -> int:
    """The ``stacklevel`` at which a warning of the caller names the line outside Palimpsest and torch that led here.

    An optimizer is made through as many constructors as it has base classes, or gets a group later.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("palimpsest", "torch"):
        frame, level = frame.f_back, level + 1
    return level


def batches(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Members of one kind together: of one shape, split alike, and after as many steps, so that a rule's factors agree.

    What one operation does for a stack of them it would do for each alone: on a GPU the launches of its kernels, on a
    CPU the calls, take longer than a small matrix does.
    """
    kinds: dict[tuple[object, ...], list[Member]] = {}
    for member in members:
        kinds.setdefault(_kind(member), []).append(member)
    for alike in kinds.values():
        weight = alike[0].weight
        size = max(1, AT_ONCE.get(weight.device.type, AT_ONCE_ELSEWHERE) // max(1, weight.numel()))
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _kind(member: Member) -> tuple[object, ...]:
    weight, state = member.weight, member.state
    split = state["chosen"].shape if "chosen" in state else None
    steps = int(state["step"]) if "step" in state else 0
    return weight.shape, weight.dtype, weight.device, split, steps


class SubspaceAdam(PartOptimizer):
    """Adam in the ``rank`` leading singular directions of each gradient; ``alpha`` scales what comes back from there.

    As in the first releases of transformers, eps stands beside the uncorrected root and weights decay after the step.
    """

    decay_first: ClassVar[bool] = False

    def __init__(self, params: Parameters, defaults: Group) -> None:
        if defaults["rank"] < 1:
            raise ValueError(f"rank must be at least 1, not {defaults['rank']}.")
        if not defaults["alpha"] > 0:
            raise ValueError(f"alpha must be above 0, not {defaults['alpha']}.")
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> Rule:
        return adam_plain_eps

    def _new_split(self, group: Group, gradient: Tensor, generator: torch.Generator) -> Leading:
        return Leading.refresh(gradient, group["rank"], generator)

    def _old_split(self, group: Group, chosen: Tensor, shape: torch.Size) -> Leading:
        return Leading(chosen, shape)

    def _worthwhile(self, shape: torch.Size, group: Group) -> bool:
        return min(shape) > int(group["rank"])

    def _warn_of(self, small: Sequence[str], group: Group) -> None:
        warnings.warn(
            f"{type(self).__name__} takes full steps, with full state, for matrices such as {small[0]} ({len(small)} "
            f"in all), whose smaller side is not above the rank {group['rank']}; lower the rank to split them too.",
            stacklevel=_callers_level(),
        )

    def _check(self, name: str, parameter: Tensor, group: Group) -> None:
        super()._check(name, parameter, group)
        if min(parameter.shape) < group["rank"]:
            raise ValueError(
                f"{name} has the shape {tuple(parameter.shape)}, too small for the rank {group['rank']}; "
                "lower the rank, or move it to a group with project: false."
            )

    def _wanted(self) -> str:
        return f"{super()._wanted()} and sides above the rank {self.defaults['rank']}"
