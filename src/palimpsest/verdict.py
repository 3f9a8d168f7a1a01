"""What a run was expected to do, and whether the figures show it.

An expectation belongs to a role and an audit and reads, in a recipe,

    nearer retrained        the figure comes nearer to that run's
    higher, lower           the figure rises, falls
    {change: "< 3 %"}       the change stays within a margin
    {at least: 0.9}         the figure afterwards lies on one side of a bound

and its verdict is learned, retained, forgotten, lost, failed or not shown.

Rules.  Every interval is the 95 % paired bootstrap of ``statistics``.

- ``nearer R``: *forgotten* when |after - R| - |before - R| has its interval below 0, *failed* when above.
- ``higher`` and ``lower``: shown when the interval of the change lies wholly on the expected side of 0.  A
  movement in the direction that the audit calls better is *learned*, the opposite one is *forgotten*.  When the
  interval lies wholly on the other side, it is *lost* if an improvement was expected, else *failed*.
- ``change``: a margin that includes 0 is about keeping: *retained* when the interval lies within the margin,
  *lost* when it lies wholly beyond.  A margin that excludes 0, such as ``"> 0.2"``, demands a change and follows the
  rule of ``higher`` and ``lower``; a change that is wholly too small is *failed*.  Percents are of the absolute
  figure before.
- ``at least`` and ``at most``: shown when the interval of the figure afterwards lies within the bound.  On the side
  that is better it is *learned* if the interval of the change lies beyond 0 as well and the figure before lay
  outside the bound, else *retained*; on the other side it is *forgotten*, if the change lies beyond 0.  When the
  interval afterwards lies wholly beyond the bound, it is *lost* if the bound is on the better side and the figure
  before lay within it, else *failed*.
- Everything else is *not shown*: with these items and seeds, the figures decide neither way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from palimpsest.audit import Scores
from palimpsest.resample import Array
from palimpsest.statistics import (
    Interval,
    bootstrap_over_seeds,
    combined_bootstrap,
    distance_change,
    paired_bootstrap_over_seeds,
)

__all__ = ["Expectation", "Finding", "Verdict", "decimals", "figure_of", "judge", "number", "parse_expectation"]

Finding = Literal["learned", "retained", "forgotten", "lost", "failed", "not shown"]

_MARGIN = re.compile(r"\s*(<=|>=|<|>|within)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*")
_FORMS = 'write "nearer retrained", "higher", "lower", {change: "< 3 %"}, {at least: 0.9} or {at most: 0.1}'


@dataclass(frozen=True)
class Expectation:
    """What is expected of one figure.

    ``low`` and ``high`` bound the change (kind ``change``, in percent where ``percent``) or the figure afterwards
    (kind ``value``); ``strict`` excludes the bounds.  ``reference`` is the run to come nearer to.
    """

    kind: Literal["nearer", "higher", "lower", "change", "value"]
    text: str
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False
    percent: bool = False
    reference: str = ""

    def allows(self, value: float) -> bool:
        """Whether ``value`` lies within the bounds."""
        return self.low < value < self.high if self.strict else self.low <= value <= self.high


@dataclass(frozen=True)
class Verdict:
    """What the figures say about one expectation of one run, in a word and in a sentence."""

    run: str
    role: str
    audit: str
    expect: str
    verdict: Finding
    sentence: str


def parse_expectation(spec: str | Mapping[str, str | float], place: str = "expect") -> Expectation:
    """Reads one expectation of a recipe; raises ``ValueError`` with one sentence that names ``place``."""
    if isinstance(spec, str):
        words = spec.split()
        if len(words) == 2 and words[0] == "nearer":
            return Expectation("nearer", f"nearer {words[1]}", reference=words[1])
        if words in (["higher"], ["lower"]):
            return Expectation("higher" if words == ["higher"] else "lower", words[0])
        raise ValueError(f"{place}: {spec!r} is no expectation; {_FORMS}.")
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(f"{place}: {spec!r} is no expectation; {_FORMS}.")
    key, value = next(iter(spec.items()))
    if key == "change":
        return _margin(str(value), place)
    if key not in ("at least", "at most"):
        raise ValueError(f"{place}: {key!r} is no expectation; {_FORMS}.")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{place}: {key!r} takes a number, not {value!r}.")
    bounds = (float(value), math.inf) if key == "at least" else (-math.inf, float(value))
    return Expectation("value", f"{key} {value:g}", *bounds)


def _margin(text: str, place: str) -> Expectation:
    found = _MARGIN.fullmatch(text)
    if not found:
        raise ValueError(f'{place}: {text!r} is no margin; write "< 3 %", "> -0.05" or "within 2 %".')
    sign, bound, percent = found[1], float(found[2]), bool(found[3])
    if sign == "within" and bound < 0:
        raise ValueError(f"{place}: a change lies within a margin of at least 0, not {bound:g}.")
    low = -bound if sign == "within" else bound if sign.startswith(">") else -math.inf
    high = math.inf if sign.startswith(">") else bound
    shown = f"change {sign} {bound:g}{' %' if percent else ''}"
    return Expectation("change", shown, low, high, strict=sign in ("<", ">"), percent=percent)


@dataclass(frozen=True)
class _Case:
    """One figure before and after, with everything that the rules look at."""

    better: str
    before: Interval
    after: Interval
    change: Interval

    @property
    def rising_is_better(self) -> bool:
        return self.better != "lower"

    def moved(self) -> str:
        """``fell from 0.98 to 0.35 (change -0.63, 95 % interval -0.71 to -0.55)``."""
        digits = decimals(self.before.value, self.after.value)
        before, after = number(self.before.value, digits), number(self.after.value, digits)
        if before == after:
            verb = f"stayed at {after}"
        else:
            verb = f"{'fell' if self.change.value < 0 else 'rose'} from {before} to {after}"
        return f"{verb} ({_interval(self.change, 'change ')})"


def judge(
    run: str,
    role: str,
    audit: str,
    expectation: Expectation,
    before: Sequence[Scores],
    after: Sequence[Scores],
    reference: Sequence[Scores] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Verdict:
    """The verdict on one expectation; ``before``, ``after`` and ``reference`` hold one ``Scores`` per seed."""

    def change_of(combine: Callable[[Array, Array], Array]) -> Interval:
        return combined_bootstrap([before, after], combine, resamples=resamples, seed=seed)

    case = _Case(
        after[0].better,
        bootstrap_over_seeds(before, resamples=resamples, seed=seed),
        bootstrap_over_seeds(after, resamples=resamples, seed=seed),
        paired_bootstrap_over_seeds(before, after, resamples=resamples, seed=seed),
    )
    if expectation.kind == "nearer":
        if not reference:
            finding: Finding = "not shown"
            why = f"no run is named {expectation.reference!r}, so add it to the baselines to show more"
        else:
            nearer = distance_change(before, after, reference, resamples=resamples, seed=seed)
            goal = bootstrap_over_seeds(reference, resamples=resamples, seed=seed)
            finding, why = _nearer(case, nearer, goal, expectation.reference)
    elif expectation.kind == "value":
        finding, why = _value(case, expectation)
    elif expectation.kind == "change" and (expectation.allows(0)):
        finding, why = _kept(change_of(_percent) if expectation.percent else case.change, expectation)
    else:
        finding, why = _moved(case, change_of(_percent) if expectation.percent else case.change, expectation)
    figure = figure_of(role, audit, after[0].unit)
    return Verdict(run, role, audit, expectation.text, finding, f"{figure} {case.moved()}; {why}.")


def figure_of(role: str, audit: str, unit: str) -> str:
    """``retain / perplexity (nats/token)``."""
    return f"{role} / {audit} ({unit})" if unit else f"{role} / {audit}"


def _percent(before: Array, after: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        percent = 100 * (after - before) / np.abs(before)
    return np.where(after == before, 0.0, percent)


def _nearer(case: _Case, nearer: Interval, goal: Interval, name: str) -> tuple[Finding, str]:
    gap, left = abs(case.before.value - goal.value), abs(case.after.value - goal.value)
    digits = decimals(case.before.value, case.after.value)
    where = f"the {name} model has {number(goal.value, digits)}"
    if gap == 0:
        moved = f", and its distance has grown ({_interval(nearer, 'change ')})" if nearer.low > 0 else ""
        why = f"{where}, as the model had before, so there was no gap to close{moved}"
        return ("failed" if moved else "not shown"), why
    passed = (case.after.value - goal.value) * (case.before.value - goal.value) < 0
    if left > gap:
        closed = "the gap has grown"
    elif passed:
        closed = f"the gap is closed and overshot by {100 * left / gap:.0f} %"
    else:
        closed = f"{100 * (1 - left / gap):.0f} % of the gap is closed"
    inside = ""
    if not math.isnan(goal.low):
        inside = f", and the result lies {'inside' if goal.contains(case.after.value) else 'outside'} its interval"
        inside += f" ({number(goal.low, digits)} to {number(goal.high, digits)})"
    tail = f"{where}, so {closed}{inside}"
    if nearer.high < 0:
        return "forgotten", tail
    if math.isnan(nearer.high):
        return "not shown", f"{tail}, but a single item gives no interval"
    if nearer.low > 0:
        return "failed", f"{tail}; the opposite is shown ({_interval(nearer, 'change of the distance ')})"
    return "not shown", f"{tail}, but coming nearer is not shown ({_interval(nearer, 'change of the distance ')})"


def _value(case: _Case, expectation: Expectation) -> tuple[Finding, str]:
    upward = math.isinf(expectation.high)
    within = expectation.allows(case.after.low) and expectation.allows(case.after.high)
    allowed_before = expectation.allows(case.before.value)
    ends = _interval(case.after, "the figure is ")
    changed = case.change.low > 0 if upward else case.change.high < 0
    if within and upward == case.rising_is_better:
        finding: Finding = "learned" if changed and not allowed_before else "retained"
        return finding, f"{ends}, {expectation.text} as expected"
    if within and changed:
        return "forgotten", f"{ends}, {expectation.text} as expected"
    if within:
        return "not shown", f"{ends}, {expectation.text} as expected, but no change is shown that led there"
    beyond = case.after.high < expectation.low or case.after.low > expectation.high
    if beyond:
        finding = "lost" if allowed_before and upward == case.rising_is_better else "failed"
        return finding, f"{ends}, not {expectation.text}"
    return "not shown", f"{ends}, which does not settle whether it is {expectation.text}"


def _kept(change: Interval, expectation: Expectation) -> tuple[Finding, str]:
    unit = " %" if expectation.percent else ""
    ends = f"{_interval(change, 'the change is ', unit)}" if expectation.percent else "the interval of the change"
    if expectation.allows(change.low) and expectation.allows(change.high):
        return "retained", f"{ends}{',' if expectation.percent else ' lies'} within the margin ({expectation.text})"
    if change.high < expectation.low or change.low > expectation.high:
        return "lost", f"{ends}{',' if expectation.percent else ' lies'} wholly beyond the margin ({expectation.text})"
    if math.isnan(change.low) or math.isnan(change.high):
        return "not shown", f"these items give no interval to hold against the margin ({expectation.text})"
    return "not shown", f"{ends}{', which' if expectation.percent else ''} crosses the margin ({expectation.text})"


def _moved(case: _Case, change: Interval, expectation: Expectation) -> tuple[Finding, str]:
    bound = expectation.low if math.isfinite(expectation.low) else expectation.high
    upward = expectation.kind == "higher" or (expectation.kind == "change" and math.isinf(expectation.high))
    bound = bound if math.isfinite(bound) else 0.0
    improving = upward == case.rising_is_better
    unit = " %" if expectation.percent else ""
    what = f"{'a rise' if upward else 'a fall'}{f' beyond {bound:g}{unit}' if bound else ''}"
    note = f" ({_interval(change, 'change ', unit)})" if expectation.percent else ""
    if math.isnan(change.low) or math.isnan(change.high):
        return "not shown", f"these items give no interval, so {what} is not shown"
    if (change.low > bound) if upward else (change.high < bound):
        return ("learned" if improving else "forgotten"), f"{what} was expected and is shown{note}"
    if (change.high < 0) if upward else (change.low > 0):
        return ("lost" if improving else "failed"), f"{what} was expected, and the opposite is shown{note}"
    if (change.high < bound) if upward else (change.low > bound):
        return "failed", f"{what} was expected, and the change is shown to be smaller{note}"
    return "not shown", f"{what} was expected and is not shown{note}"


def _interval(interval: Interval, lead: str, unit: str = "") -> str:
    """``change -0.63, 95 % interval -0.71 to -0.55``, all with the same decimals."""
    digits = decimals(*(v for v in (interval.value, interval.low, interval.high) if math.isfinite(v)))
    shown = f"{lead}{number(interval.value, digits)}{unit}"
    if math.isnan(interval.low) and math.isnan(interval.high):
        return f"{shown}, no interval from a single item"
    return f"{shown}, 95 % interval {number(interval.low, digits)} to {number(interval.high, digits)}{unit}"


def decimals(*values: float) -> int:
    """Decimals that show the largest of ``values`` with about three digits, and at least two below 10."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest == 0 or largest >= 100:
        return 0 if largest else 2
    return 1 if largest >= 10 else 2 if largest >= 0.095 else min(6, 1 - math.floor(math.log10(largest)))


def number(value: float, digits: int | None = None) -> str:
    """A figure in plain text: three digits or the given decimals, thousands apart, a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.{decimals(value) if digits is None else digits}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text
