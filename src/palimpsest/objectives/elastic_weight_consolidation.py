"""Holds weights near where earlier tasks left them, the more the more those tasks depend on them.

    L = 1/2 sum over earlier tasks s, weights j of F_sj (theta_j - theta*_sj)^2
    F_s = mean over the rows i of task s of (grad log p(y_i | x_i))^2 at theta*_s

Use it on the reserved role, ``100 * on("weights", ElasticWeightConsolidation(of="task1"))`` in the stage after task 1.
The Fisher of ``of`` is taken as that stage starts, at the weights that task 1 left; those of still earlier tasks come
from the stage before. With ``decay`` it is online EWC: one Fisher, F <- decay F + F_s, around the latest weights.

Paper: Overcoming catastrophic forgetting in neural networks (Kirkpatrick et al., 2017), arXiv 1612.00796, equation 3;
    online: Progress & Compress (Schwarz et al., 2018), arXiv 1805.06370.
Code: ContinualAI/avalanche (EWCPlugin), aimagelab/mammoth (ewc_on).
Tags: retain, continual-learning, loss, classifier, language-model.
Needs: nothing; one forward and backward pass a row of ``of``.
Differs: the released code squares gradients of batch means, which is no Fisher (avalanche, unless its batch size is 1),
    or weighs each square by p(y | x) (mammoth); here each row's own gradient is squared. Both leave out the half. All
    earlier tasks together take the memory of one: a sum of such squares is one square and a constant.
See: ``learning_without_forgetting`` (keeps outputs, not weights), ``cross_entropy`` on a replay role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.reference import evaluating
from palimpsest.roles import Roles
from palimpsest.views import ParameterView, TokenView, Unit, View

__all__ = ["METHOD", "Consolidated", "ElasticWeightConsolidation", "empirical_fisher", "quadratic_penalty"]


def quadratic_penalty(value: Tensor, anchor: Tensor, importance: Tensor) -> Tensor:
    """1/2 sum of importance * (value - anchor)^2 over tensors of one shape -> scalar."""
    return 0.5 * (importance * (value - anchor).square()).sum()


def empirical_fisher(model: nn.Module, roles: Roles, role: str, rows: int | None = None) -> dict[str, Tensor]:
    """Name -> mean over rows of the squared gradient of the row's log-probability, for every trainable parameter."""
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = {n: torch.zeros_like(p) for n, p in trainable.items()}
    device, seen = next(iter(trainable.values())).device, 0
    with evaluating(model), torch.enable_grad():
        for batch in islice(roles.in_order(role, 1), rows):
            logp = _of_the_row(roles.adapter.views(model, batch.to(device), [role])[role])
            gradients = torch.autograd.grad(logp, list(trainable.values()), allow_unused=True)
            for name, gradient in zip(trainable, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.square()
            seen += 1
    return {name: value / seen for name, value in total.items()}


def _of_the_row(view: View) -> Tensor:
    """log p(y | x) of a batch of one row, scalar."""
    logp: Tensor = (view.seq_logp if isinstance(view, TokenView) else view.logp)[0]  # type: ignore[attr-defined]
    return logp


class Consolidated(nn.Module):
    """Importances and anchors of all earlier tasks together, by parameter, and the penalty at the anchors."""

    offset: Tensor

    def __init__(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor], offset: Tensor) -> None:
        super().__init__()
        self.names = tuple(importance)
        self.register_buffer("offset", offset)
        for name in self.names:
            self.register_buffer(_key("importance", name), importance[name].detach().clone())
            self.register_buffer(_key("anchor", name), anchor[name].detach().clone())

    def of(self, kind: str, name: str) -> Tensor:
        """The ``importance`` or ``anchor`` of a parameter."""
        return self.get_buffer(_key(kind, name))


def _key(kind: str, name: str) -> str:
    return f"{kind}/{name.replace('.', '/')}"  # a buffer's name has no point


@dataclass(frozen=True)
class ElasticWeightConsolidation(Objective):
    """``of``: the role of the task before; ``rows``: at most so many of it; ``decay``: that of online EWC, or None."""

    of: str = "task"
    decay: float | None = None
    rows: int | None = None

    unit: ClassVar[Unit] = "parameter"

    def __post_init__(self) -> None:
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise ValueError(f"decay lies in [0, 1], not {self.decay}; None keeps every task's own weights.")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows must be at least 1, not {self.rows}; None takes all.")

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> Consolidated:
        """Takes the Fisher of the role ``of`` at the weights as they are now, and adds what ``previous`` holds."""
        if self.of not in roles.rows:
            raise ValueError(f"EWC takes the Fisher of the role {self.of!r}, which has no rows; name the task before.")
        importance = empirical_fisher(model, roles, self.of, self.rows)
        anchor = {n: p.detach() for n, p in model.named_parameters() if n in importance}
        offset = next(iter(anchor.values())).new_zeros(())
        for name, new in importance.items():
            earlier = (previous or {}).get(_key("importance", name))
            if earlier is None:
                continue
            assert previous is not None
            if self.decay is not None:
                importance[name] = self.decay * earlier + new
                continue
            total, at = earlier + new, previous[_key("anchor", name)]
            share = torch.where(total > 0, new / total.clamp_min(torch.finfo(total.dtype).tiny), 0.5)
            offset = offset + quadratic_penalty(anchor[name], at, earlier * share)
            importance[name], anchor[name] = total, torch.lerp(at, anchor[name], share)
        if self.decay is None and previous is not None:
            offset = offset + previous["offset"]
        return Consolidated(importance, anchor, offset)

    def __call__(self, view: ParameterView, state: nn.Module | None = None) -> Tensor:
        """The penalty, scalar."""
        if not isinstance(state, Consolidated):
            raise ValueError(
                "EWC needs what prepare() found; train with fit(), or pass evaluate(…, states=prepare(…))."
            )
        terms = [
            quadratic_penalty(view.parameters[n], state.of("anchor", n), state.of("importance", n))
            for n in state.names
            if n in view.parameters
        ]
        return torch.stack([state.offset, *terms]).sum()


METHOD = ElasticWeightConsolidation
