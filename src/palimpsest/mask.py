"""Which weights may move.  What a mask freezes does not move at all.

Masking only the gradient is not enough: momentum of earlier steps and weight decay would still move the
frozen entries.  So after every step the frozen entries are put back, and their momentum is cleared.  Buffers, such as
the running statistics of batch normalization, follow the data in train mode, mask or not, unless a mask holds their
module ``still``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from palimpsest.checkpoint import read_tensors, write_tensors
from palimpsest.roles import Roles

__all__ = ["Mask", "Masked", "Masker"]


@dataclass(frozen=True)
class Mask:
    """``moves`` maps a parameter's name to a bool tensor of its shape: True may move. Unnamed parameters are frozen.

    ``still`` names modules that stay in eval mode, their own buffers as they are; their parameters follow ``moves``.
    ``fit(..., mask=mask)`` holds to it, and in a loop of your own ``Masked(mask, model)`` does.
    """

    moves: Mapping[str, Tensor]
    why: str = ""
    still: frozenset[str] = frozenset()

    @property
    def fraction(self) -> float:
        """The share of the named entries that may move."""
        total = sum(m.numel() for m in self.moves.values())
        return sum(int(m.sum()) for m in self.moves.values()) / max(total, 1)

    def save(self, path: Path) -> None:
        """Writes the mask as safetensors."""
        write_tensors(path, dict(self.moves), {"why": self.why, "still": sorted(self.still)})

    @staticmethod
    def load(path: Path) -> Mask:
        """Reads what ``save`` wrote."""
        moves, constants = read_tensors(path)
        return Mask(moves, constants["why"], frozenset(constants.get("still", ())))


class Masker(Protocol):
    """A frozen dataclass that looks at a model and its data and decides which weights may move."""

    def __call__(self, model: nn.Module, roles: Roles) -> Mask:
        """Decides at the weights as they are now."""
        ...


class Masked:
    """A mask at work on a model, made before the first step.

    masked = Masked(SalUn(fraction=0.5)(model, roles), model)
    for batch in ...:
        masked.before_forward()
        loss(model(batch)).backward()
        masked.before_step()
        optimizer.step()
        masked.after_step(optimizer)
    """

    def __init__(self, mask: Mask, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        unknown = [n for n in mask.moves if n not in parameters]
        if unknown:
            raise ValueError(
                f"The mask names {unknown[0]!r}, which is no parameter of this model; make it for this model."
            )
        self._items: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                continue
            moves = mask.moves.get(name)
            if moves is None:
                moves = torch.zeros(parameter.shape, dtype=torch.bool)
            if moves.shape != parameter.shape:
                raise ValueError(
                    f"The mask of {name!r} has shape {tuple(moves.shape)}, the parameter {tuple(parameter.shape)}."
                )
            if not bool(moves.all()):
                self._items.append((parameter, moves.to(parameter.device), parameter.detach().clone()))
        modules = dict(model.named_modules())
        strange = sorted(mask.still - modules.keys())
        if strange:
            raise ValueError(
                f"The mask holds {strange[0]!r} still, which is no module of this model; make it for this model."
            )
        self._still = [modules[name] for name in sorted(mask.still)]
        self._buffers = [(b, b.detach().clone()) for m in self._still for b in m.buffers(recurse=False)]

    def before_forward(self) -> None:
        """Puts the modules that are held still into eval mode, out of which ``model.train()`` has taken them."""
        for module in self._still:
            module.training = False  # not .eval(), which would also still the modules inside it

    def before_step(self) -> None:
        """Clears the gradient of the frozen entries, so that they count in no norm and in no momentum."""
        for parameter, moves, _ in self._items:
            if parameter.grad is not None:
                parameter.grad.mul_(moves)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts frozen entries and buffers back, bit for bit, and clears the momentum of frozen entries."""
        with torch.no_grad():
            for buffer, original in self._buffers:
                buffer.copy_(original)
            for parameter, moves, original in self._items:
                parameter.copy_(torch.where(moves, parameter, original))
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        value.mul_(moves)
