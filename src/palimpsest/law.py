"""A curve through a table of runs, and what it says of runs that nobody has made yet.

    fitted = PowerLaw().fit([{"x": 1e6, "loss": 4.1}, {"x": 1e7, "loss": 3.4}, …])
    fitted.predict({"x": 1e9})                       -> Prediction(mean, low, high)

A law's constants are found from several starts, and all of their objectives are kept: when many starts end at the
same value the optimum can be trusted, when they scatter it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from palimpsest.audit import Row

__all__ = ["Fitted", "Law", "Point", "Prediction", "numbers"]

Point = Mapping[str, float]
"""A value for each of the law's variables."""


@dataclass(frozen=True)
class Prediction:
    """``mean`` is the curve; a new measurement lies between ``low`` and ``high`` in 95 of 100 cases."""

    mean: float
    low: float
    high: float


class Fitted(Protocol):
    """A law whose constants are known. ``objectives`` are the values that the starts ended at, the best first."""

    @property
    def objectives(self) -> tuple[float, ...]:
        """One value a start, ascending; the first belongs to the constants."""
        ...

    def predict(self, point: Point) -> Prediction:
        """The target at a point, with its interval."""
        ...

    def describe(self) -> str:
        """The curve with its constants and intervals, in a few lines for people."""
        ...


class Law(Protocol):
    """A frozen dataclass: a curve with unknown constants."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The columns that the curve depends on."""
        ...

    @property
    def target(self) -> str:
        """The column that it predicts."""
        ...

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """The constants that fit the table best; raises ``ValueError`` for a table that cannot determine them."""
        ...


def numbers(rows: Sequence[Row], name: str, law: str) -> list[float]:
    """One column as finite numbers, from numbers or their text; raises ``ValueError`` that names the row."""
    found = []
    for place, row in enumerate(rows, 1):
        if name not in row:
            there = ", ".join(map(str, row)) or "none"
            raise ValueError(f"{law} needs the column {name!r}, which row {place} of the table lacks; it has: {there}.")
        try:
            value = float(row[name])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{law}: the {name} of row {place} is {row[name]!r}; it must be a finite number.")
        found.append(value)
    return found
