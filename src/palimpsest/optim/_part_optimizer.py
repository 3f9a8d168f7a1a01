"""Optimizers that keep state for a part of each matrix's gradient: a subspace, columns, rows or entries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from palimpsest.optim._rules import Directions, State, adam_plain_eps
from palimpsest.optim._split_optimizer import Group, Member, Parameters, SplitOptimizer, distributed
from palimpsest.optim._splitter import Leading, Split, draw

__all__ = ["PartOptimizer", "SubspaceAdam"]


class PartOptimizer(SplitOptimizer):
    """A method says how a matrix is split, and how it moves once the rule has spoken about its part."""

    @abstractmethod
    def _new_split(self, group: Group, gradient: Tensor, generator: torch.Generator) -> Split:
        """A new choice for one matrix."""

    @abstractmethod
    def _old_split(self, group: Group, chosen: Tensor, shape: torch.Size) -> Split:
        """The split that a tensor of the state stands for."""

    @abstractmethod
    def _move(self, group: Group, member: Member, split: Split, part: Tensor, direction: Tensor, factor: float) -> None:
        """Moves one matrix; ``part`` is the gradient's, ``direction`` times ``factor`` what the rule makes of it."""

    def _renewed(self, group: Group, state: State) -> None:
        """After a new choice: the moments stay, unless a method says otherwise."""

    def _step_split(self, group: Group, members: Sequence[Member]) -> None:
        """The rule on parts of the gradients; one full-size matrix beside the weights at a time."""
        for chunk in _chunks(members):
            splits = [self._split(group, m) for m in chunk]
            parts = [split.down(m.gradient) for split, m in zip(splits, chunk)]
            directions, factors = self._rule([m.state for m in chunk], parts, group)
            for member, split, part, direction, factor in zip(chunk, splits, parts, directions, factors):
                if self.decay_first:
                    self._decay(group, [member.weight])
                self._move(group, member, split, part, direction, factor)
                if not self.decay_first:
                    self._decay(group, [member.weight])
                member.put_back()

    def _split(self, group: Group, member: Member) -> Split:
        """A matrix's split, renewed every ``update_gap`` steps."""
        period, within = divmod(group["steps"], group["update_gap"])
        if within and "chosen" in member.state:
            return self._old_split(group, member.state["chosen"], member.gradient.shape)
        split = self._new_split(group, member.gradient, draw(group.get("seed", 0), "split", period, member.place))
        member.state["chosen"] = split.chosen
        self._renewed(group, member.state)
        return split


def _chunks(members: Sequence[Member]) -> Iterator[list[Member]]:
    """All members at once; those that FSDP2 spreads over processes gathered, one by one."""
    here = [m for m in members if distributed(m.weight) is None]
    if here:
        yield here
    for member in members:
        if distributed(member.weight) is not None:
            yield [member.gathered()]


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

    def _rule(self, states: Sequence[State], gradients: list[Tensor], group: Group) -> Directions:
        return adam_plain_eps(states, gradients, group)

    def _new_split(self, group: Group, gradient: Tensor, generator: torch.Generator) -> Leading:
        return Leading.refresh(gradient, group["rank"], generator)

    def _old_split(self, group: Group, chosen: Tensor, shape: torch.Size) -> Leading:
        return Leading(chosen, shape)

    def _worthwhile(self, shape: torch.Size, group: Group) -> bool:
        return min(shape) > int(group["rank"])

    def _check(self, name: str, parameter: Tensor, group: Group) -> None:
        super()._check(name, parameter, group)
        if min(parameter.shape) < group["rank"]:
            raise ValueError(
                f"{name} has the shape {tuple(parameter.shape)}, too small for the rank {group['rank']}; "
                "lower the rank, or move it to a group with project: false."
            )

    def _wanted(self) -> str:
        return f"{super()._wanted()} and sides above the rank {self.defaults['rank']}"
