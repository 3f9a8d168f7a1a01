"""A change of weights that can be looked at, saved and undone: what every edit returns.

patch = TaskVector(alpha=1.0)(model, roles, {"reinforced": companion})
with patch.applied(model): ...      # the model is bit for bit what it was afterwards
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from palimpsest.checkpoint import read_tensors, write_tensors
from palimpsest.roles import Roles

__all__ = ["Edit", "Patch", "difference"]


@dataclass(frozen=True)
class Patch:
    """``delta`` maps a parameter's name to what is added to it; ``why`` is a sentence for people."""

    delta: Mapping[str, Tensor]
    why: str = ""

    def apply(self, model: nn.Module, scale: float = 1.0) -> None:
        """Adds ``scale`` times the change to the model."""
        parameters = self._matched(model)
        with torch.no_grad():
            for name, change in self.delta.items():
                parameter = parameters[name]
                exact = torch.promote_types(parameter.dtype, change.dtype)  # rounded once, when it is stored
                parameter.copy_(parameter.to(exact).add(change.to(parameter.device, exact), alpha=scale))

    def revert(self, model: nn.Module) -> None:
        """Subtracts the change again: exact up to rounding. ``applied`` restores every bit."""
        self.apply(model, -1.0)

    @contextlib.contextmanager
    def applied(self, model: nn.Module, scale: float = 1.0) -> Iterator[nn.Module]:
        """The model with the change, inside the block; bit for bit as before, after it."""
        parameters = self._matched(model)
        before = {name: parameters[name].detach().clone() for name in self.delta}
        try:
            self.apply(model, scale)
            yield model
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    parameters[name].copy_(value)

    @property
    def norms(self) -> dict[str, float]:
        """Frobenius norm of the change of each parameter, largest first."""
        norms = {name: float(change.float().norm()) for name, change in self.delta.items()}
        return dict(sorted(norms.items(), key=lambda item: -item[1]))

    def save(self, path: Path) -> None:
        """Writes the change as safetensors."""
        write_tensors(path, dict(self.delta), {"why": self.why})

    @staticmethod
    def load(path: Path) -> Patch:
        """Reads what ``save`` wrote."""
        delta, constants = read_tensors(path)
        return Patch(delta, constants["why"])

    def _matched(self, model: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(model.named_parameters())
        for name, change in self.delta.items():
            if name not in parameters:
                raise ValueError(f"The patch changes {name!r}, which is no parameter of this model.")
            if parameters[name].shape != change.shape:
                raise ValueError(
                    f"The patch of {name!r} has shape {tuple(change.shape)}, the parameter"
                    f" {tuple(parameters[name].shape)}."
                )
        return parameters


class Edit(Protocol):
    """A frozen dataclass that computes a change of weights without training."""

    def __call__(self, model: nn.Module, roles: Roles, companions: Mapping[str, nn.Module] | None = None) -> Patch:
        """The change to make to ``model`` as it is now; the model itself is left alone.

        ``companions`` are the models that earlier stages trained beside this one, by name.
        """
        ...


def difference(before: Mapping[str, Tensor], model: nn.Module, why: str = "") -> Patch:
    """The patch that leads from ``before`` (clones of parameters by name) to the model as it is now.

    The change of half-precision weights is kept in float32: rounded to their own precision, it would lead elsewhere.
    """
    now = dict(model.named_parameters())
    changed = {n: (now[n].detach(), old) for n, old in before.items() if not torch.equal(now[n], old)}
    return Patch({n: _wide(new) - _wide(old) for n, (new, old) in changed.items()}, why)


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
