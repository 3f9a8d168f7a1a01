"""What a schedule may say of itself beside its curve; any function of progress in [0, 1] is a schedule."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["HasPlateau", "WarmsUp"]


@runtime_checkable
class WarmsUp(Protocol):
    """A schedule with a warm-up of its own, as a share of the stage."""

    @property
    def warmup(self) -> float:
        """0 where it has none after all."""
        ...


@runtime_checkable
class HasPlateau(Protocol):
    """A schedule with a plateau that may last as long as data come, and from which a later stage goes on."""

    @property
    def plateau(self) -> float:
        """The multiplier of the rate."""
        ...

    def __call__(self, progress: float, /) -> float:
        """The multiplier at ``progress`` in [0, 1] of the stage."""
        ...
