"""How figures become a verdict: a claim states its conditions with their thresholds, and intervals decide.

A condition holds when the whole 95 % interval lies beyond its threshold.  The first ``needed`` conditions are the claim
itself: without them nothing is shown; when they hold and a later one does not, the claim is shown in part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from palimpsest.claim import Evidence, Figure, Verdict
from palimpsest.resample import student_quantile
from palimpsest.statistics import Interval

__all__ = ["Condition", "evidence", "exact", "figure", "over_seeds"]


def exact(value: float) -> Interval:
    """A count or another value without uncertainty."""
    return Interval(float(value), float(value), float(value))


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and 95 % Student interval of one value a seed; a single seed has no interval (nan)."""
    if not values:
        raise ValueError("There is no seed to average over; give at least one.")
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    reach = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach)


def figure(name: str, interval: Interval, unit: str = "") -> Figure:
    """A figure of the evidence; ends that are undefined, or equal to the value, are left out."""
    if not math.isfinite(interval.low) or interval.low == interval.value == interval.high:
        return Figure(name, interval.value, unit=unit)
    return Figure(name, interval.value, interval.low, interval.high, unit)


@dataclass(frozen=True)
class Condition:
    """``name`` is a noun phrase for what was measured.

    It holds when the interval lies on that ``side`` of ``beyond``.
    """

    name: str
    interval: Interval
    side: Literal["above", "below"]
    beyond: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """False too where the interval is undefined."""
        return self.interval.low > self.beyond if self.side == "above" else self.interval.high < self.beyond

    @property
    def sentence(self) -> str:
        """What was measured and whether it lies beyond the threshold."""
        value, low, high = self.interval.value, self.interval.low, self.interval.high
        unit = f" {self.unit}" if self.unit else ""
        ends = "" if low == value == high else f" [{low:.3g}, {high:.3g}]" if math.isfinite(low) else " (no interval)"
        return f"{self.name}: {value:.3g}{ends}{unit}, {'' if self.holds else 'not '}{self.side} {self.beyond:g}"


def evidence(
    conditions: Sequence[Condition],
    figures: Sequence[Figure],
    settings: Mapping[str, str | int | float | bool],
    needed: int = 1,
) -> Evidence:
    """The verdict that follows from the conditions, the reason in their figures, and all that was measured."""
    verdict: Verdict = "partly"
    if all(c.holds for c in conditions):
        verdict = "shown"
    elif not all(c.holds for c in conditions[:needed]):
        verdict = "not shown"
    measured = tuple(figure(c.name, c.interval, c.unit) for c in conditions)
    because = "; ".join(c.sentence for c in conditions)
    return Evidence(verdict, because + ".", (*measured, *figures), dict(settings))
