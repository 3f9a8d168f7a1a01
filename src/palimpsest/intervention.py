"""A change of behavior at inference.  The weights stay as they are, and detaching leaves no trace.

with LogitDifference(alpha=0.8).attach(model, {"assistant": assistant}): model.generate(...)
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from torch import nn

__all__ = ["Intervention", "changes_logits", "changing_logits"]


class Intervention(Protocol):
    """A frozen dataclass that wraps a model's forward pass while it is attached."""

    def attach(self, model: nn.Module, companions: Mapping[str, nn.Module]) -> AbstractContextManager[nn.Module]:
        """A context in which ``model`` behaves otherwise, for scoring and for ``generate`` alike.

        ``companions`` are the models that a stage trained beside this one, by name.
        """
        ...


_CHANGED: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Model -> number of interventions that now change its logits behind its output layer."""


@contextlib.contextmanager
def changing_logits(*models: nn.Module) -> Iterator[None]:
    """Inside, the logits of ``models`` are no longer their output layer applied to their hidden states.

    An intervention that changes logits says so for every module that callers may hold (the model, and what it wraps);
    adapters then take the logits that the forward pass returns.
    """
    for model in models:
        _CHANGED[model] = _CHANGED.get(model, 0) + 1
    try:
        yield
    finally:
        for model in models:
            _CHANGED[model] -= 1


def changes_logits(model: nn.Module) -> bool:
    """Whether an attached intervention changes the logits of ``model``."""
    return _CHANGED.get(model, 0) > 0
