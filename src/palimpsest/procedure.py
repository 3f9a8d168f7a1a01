"""The few methods that steer training themselves: a loop of their own in the place of a stage's.

    {procedure: {k_fpf: {rounds: 5}}, objective: [...], train: {...}}

A procedure gets what a stage would train with and trains the model in place, by calls of ``fit``. The report shows
it as "own loop". The folder also holds methods that rewrite a role's rows (``{rewrite: …, of: role}``), and functions
that make a companion of a model (``starts``) or are called from Python alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from palimpsest.audit import Row
from palimpsest.loop import Progress, Result, Training
from palimpsest.objective import Total
from palimpsest.reference import Reference
from palimpsest.roles import Roles
from palimpsest.step import States

__all__ = ["Procedure", "Rewrite", "takes"]


class Procedure(Protocol):
    """A frozen dataclass whose call trains ``model`` in place of ``fit``, with the same arguments and result."""

    def __call__(
        self,
        model: nn.Module,
        roles: Roles,
        objective: Total,
        training: Training,
        *,
        seed: int = 0,
        reference: Reference | None = None,
        folder: Path | None = None,
        on_step: Callable[[Progress], None] | None = None,
        previous: States | None = None,
    ) -> Result:
        """With a ``folder``, a call that was killed goes on to the same weights."""
        ...


class Rewrite(Protocol):
    """A frozen dataclass whose call makes a role's rows of another role's."""

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """The same for the same rows; an ``id`` stays with what is asked about."""
        ...


def takes(method: Any, argument: str) -> bool:
    """Whether ``method`` is called with an argument of that name, which tells one kind of procedure from another."""
    return callable(method) and argument in inspect.signature(method).parameters
