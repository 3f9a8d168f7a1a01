"""Parts of a network that take the place of others while a stage trains: low-rank layers, other output layers.

layer.install(model)      # before the optimizer exists
...                       # training
layer.merge(model)        # plain dense modules again, with the same outputs
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

__all__ = ["Layer", "StepsItself"]


class StepsItself(nn.Module):
    """A module that moves its own weights, which no optimizer sees; ``Step.after`` calls ``apply_update``."""

    def apply_update(self, pace: float = 1.0) -> None:
        """One step at ``pace``, the share of ``train.lr`` that the stage has come to; nothing without a gradient."""
        raise NotImplementedError


class Layer(Protocol):
    """A frozen dataclass that replaces modules of a model, and puts plain ones back."""

    def install(self, model: nn.Module) -> None:
        """Replaces modules in place; raises ``ValueError`` where the model has none that fit."""
        ...

    def merge(self, model: nn.Module) -> None:
        """Replaces what ``install`` put in by plain modules that compute the same."""
        ...
