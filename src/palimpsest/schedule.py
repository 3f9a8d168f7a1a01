"""What a schedule may say of itself beside its curve; any function of progress in [0, 1] is a schedule."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Anneals", "WarmsUp"]


@runtime_checkable
class WarmsUp(Protocol):
    """A schedule with a warm-up of its own, as a share of the stage."""

    @property
    def warmup(self) -> float:
        """0 where it has none after all."""
        ...


@runtime_checkable
class Anneals(Protocol):
    """A schedule with a plateau that may last as long as data come, and an annealing, as a share of the stage."""

    @property
    def annealing(self) -> float:
        """0 where the stage ends on the plateau, from which a later one goes on."""
        ...

    @property
    def plateau(self) -> float:
        """The multiplier of the rate."""
        ...
