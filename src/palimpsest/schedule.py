"""What a schedule may say of itself beside its curve; any function of progress in [0, 1] is a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

__all__ = ["Joins", "WarmsUp"]


@runtime_checkable
class WarmsUp(Protocol):
    """A schedule with a warm-up of its own, as a share of the stage."""

    @property
    def warmup(self) -> float:
        """0 where it has none after all."""
        ...


@runtime_checkable
class Joins(Protocol):
    """A schedule that may go on where that of the stage before has ended."""

    def check_join(self, before: Callable[[float], float] | None) -> None:
        """Raises ``ValueError`` where it would not; ``before`` is the schedule before, None for a constant rate."""
        ...
