"""The few methods that steer training themselves: a loop of their own in the place of a stage's.

    {procedure: {k_fpf: {rounds: 5}}, objective: [...], train: {...}}

A procedure gets what a stage would train with and trains the model in place, by calls of ``fit``. The report shows
it as "own loop". The folder also holds functions that make a companion of a model (``starts``) or are called from
Python alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn

from palimpsest.loop import Progress, Result, Training
from palimpsest.objective import Total
from palimpsest.reference import Reference
from palimpsest.roles import Roles
from palimpsest.step import States

__all__ = ["Procedure"]


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
