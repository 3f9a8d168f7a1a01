"""What the optimizers of this folder share: which matrices are split, the step of everything else, and saving.

A parameter group is taken apart into the matrices that are split (``project: True`` in ``param_groups``) and the rest,
which takes a full step.  The papers split the linear layers of attention and MLP and spend full state on embeddings,
head and norms; so a matrix is split when its name contains one of the ``modules``.  A group that says ``project``
itself is taken at its word.

The state is tensors, and what is random is drawn from the seed and the number of the step: ``state_dict`` gives all
there is, and all processes draw the same.  Under FSDP2 the matrices to be split are gathered one at a time and every
process takes the same step; their small state is whole on each of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from palimpsest.optim._rules import Rule, State, adam

__all__ = ["MODULES", "Group", "Member", "Parameters", "SplitOptimizer", "common", "distributed", "one_of"]

MODULES = ("attn", "attention", "mlp", "ffn", "feed_forward")
"""Parts of the names under which models keep the linear layers of their blocks."""

Group = dict[str, Any]
"""A parameter group: ``params`` and settings by name."""
Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]
"""Named parameters, or groups of them, as torch's optimizers take them."""


def common(
    lr: float, weight_decay: float, betas: tuple[float, float], eps: float, update_gap: int, modules: Sequence[str]
) -> Group:
    """The settings that all of them have, checked."""
    if not (lr >= 0 and math.isfinite(lr)):
        raise ValueError(f"lr must be a finite number of at least 0, not {lr}.")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, not {weight_decay}.")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must lie in [0, 1), not {betas}.")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, not {eps}.")
    if update_gap < 1:
        raise ValueError(f"update_gap must be at least 1 step, not {update_gap}.")
    numbers = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
    return {**numbers, "update_gap": update_gap, "modules": list(modules)}


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """Refuses a setting that is none of those."""
    if value not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}.")


@dataclass(frozen=True, eq=False)
class Member:
    """One parameter at work; ``place`` is its number in the group."""

    place: int
    weight: Tensor
    gradient: Tensor
    state: State
    shards: Any = None
    """Where FSDP2 holds the weight in shards, if ``weight`` was gathered from them."""

    def gathered(self) -> Member:
        """With whole tensors, the weight then being a copy."""
        weight, gradient = distributed(self.weight), distributed(self.gradient)
        if weight is None:
            return self
        return replace(self, weight=weight.full_tensor(), gradient=gradient.full_tensor(), shards=weight)

    def put_back(self) -> None:
        """Each process takes its shard of a gathered weight."""
        if self.shards is not None:
            from torch.distributed.tensor import DTensor, Replicate

            mesh, placements = self.shards.device_mesh, self.shards.placements
            whole = DTensor.from_local(self.weight, mesh, [Replicate()] * mesh.ndim, run_check=False)
            self.shards.copy_(whole.redistribute(placements=placements))


class SplitOptimizer(Optimizer, ABC):
    """The base: a method says how matrices that are split move, and which rule moves what has state."""

    decay_first: ClassVar[bool] = True
    """Whether weights decay before the step, as in torch, or after it, as in the first releases of transformers."""

    def __init__(self, params: Parameters, defaults: Group) -> None:
        given: Any = params if isinstance(params, Tensor) else list(params)
        # The clock ``steps`` counts a group's steps: by it all splits of the group are renewed together.
        super().__init__(given, {**defaults, "project": None, "steps": 0})
        matrices = any(p.ndim == 2 for group in self.param_groups for p in group["params"])
        decided = any(isinstance(g, dict) and g.get("project") is not None for g in given)
        if matrices and not decided and not any(group["project"] for group in self.param_groups):
            raise ValueError(
                f"{type(self).__name__} finds no matrix to split: none {self._wanted()}. Give named parameters, name "
                "parts of the matrices' names in modules, or say project: true in a group."
            )

    @abstractmethod
    def _step_split(self, group: Group, members: Sequence[Member]) -> None:
        """One step of the matrices that are split."""

    def _rule(self, group: Group) -> Rule:
        """What moves all that has state."""
        return adam

    def _worthwhile(self, shape: torch.Size, group: Group) -> bool:
        """Whether a matrix that is found by its name is split."""
        return True

    def _warn_of(self, small: Sequence[str], group: Group) -> None:
        """Says which matrices were found by their names and are too small to be split."""

    def _check(self, name: str, parameter: Tensor, group: Group) -> None:
        """Refuses what cannot be split in a group that says ``project: True``."""
        if parameter.ndim != 2:
            raise ValueError(
                f"{name} has the shape {tuple(parameter.shape)}, and only matrices can be split; "
                "move it to a group with project: false."
            )

    def _wanted(self) -> str:
        return f"has {' or '.join(self.defaults['modules'])} in its name"

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group as two: what is split, and what is not."""
        group = {**self.defaults, **param_group}
        given = group["params"]
        if isinstance(given, set):  # refused there, since its order changes from run to run
            super().add_param_group(param_group)
        members: list[Any] = [given] if isinstance(given, Tensor) else list(given)
        found: dict[bool, list[Any]] = {True: [], False: []}
        small: list[str] = []
        for i, member in enumerate(members):
            name, parameter = member if isinstance(member, tuple) else ("", member)
            project = group["project"]
            if project:
                self._check(name or f"Parameter {i}", parameter, group)
            elif project is None and parameter.ndim == 2 and any(part in name for part in group["modules"]):
                project = self._worthwhile(parameter.shape, group)
                small += [] if project else [name]
            found[bool(project)].append(member)
        if small and found[True]:  # where nothing is split, that is an error
            self._warn_of(small, group)
        for project, own in found.items():
            if own or not (members or project):  # an empty group stays one group
                super().add_param_group({**param_group, "params": own, "project": project})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of everything that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            members = list(self._members(group))
            if group["project"]:
                self._step_split(group, members)
            else:
                self._step_whole(group, members)
            group["steps"] += 1
        return loss

    def _members(self, group: Group) -> Iterator[Member]:
        names = group.get("param_names")
        for place, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                name = f"parameter {place}" if names is None else names[place]
                raise ValueError(f"{type(self).__name__} takes no sparse gradients; make that of {name} dense.")
            yield Member(place, parameter, parameter.grad, self.state[parameter])

    def _step_whole(self, group: Group, members: Sequence[Member], scale: float = 1.0) -> None:
        """The rule on whole tensors."""
        if not members:
            return
        weights = [m.weight for m in members]
        if self.decay_first:
            self._decay(group, weights)
        states, gradients = [m.state for m in members], [m.gradient for m in members]
        self._rule(group)(weights, states, gradients, group, group["lr"] * scale)
        if not self.decay_first:
            self._decay(group, weights)

    def _decay(self, group: Group, weights: list[Tensor]) -> None:
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])

    @torch.no_grad()
    def load_state_dict(self, state_dict: Group) -> None:
        """Puts back what ``state_dict`` gave, in the types it had.

        torch gives every tensor its parameter's type, which rounds places and norms where weights are bfloat16.
        """
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, parameter in zip(saved, own):
            for name, value in state_dict["state"].get(index, {}).items():
                kept = self.state[parameter][name]
                if kept.dtype != value.dtype:
                    self.state[parameter][name] = value.to(kept.device)


def distributed(tensor: Tensor) -> Any:
    """A tensor as a DTensor, if FSDP2 has made it one."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    from torch.distributed.tensor import DTensor  # slow to import, and needed here only

    return tensor if isinstance(tensor, DTensor) else None
