"""A change of behavior at inference.  The weights stay as they are, and detaching leaves no trace.

    with LogitDifference(alpha=0.8)(model, assistant): model.generate(...)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from torch import nn

__all__ = ["Intervention"]


class Intervention(Protocol):
    """A frozen dataclass that wraps a model's forward pass while it is attached."""

    def attach(self, model: nn.Module, companions: Mapping[str, nn.Module]) -> AbstractContextManager[nn.Module]:
        """A context in which ``model`` behaves otherwise, for scoring and for ``generate`` alike.

        ``companions`` are the models that a stage trained beside this one, by name.
        """
        ...
