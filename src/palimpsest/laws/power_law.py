"""A loss that falls towards a floor as a power of size, data or compute.

    L(x) = E + A x^(-alpha),    alpha > 0

E, A and alpha minimize the sum of squared residuals.  For a given alpha the other two are a linear regression, so the
search has one dimension: downhill from each of eight exponents between 0.005 and 5, then a golden section; what every
start ended at is kept.  The interval of a prediction comes from the delta method: with J the derivatives by
(E, A, alpha) at the rows and g at the point,

    L(x) +- t s sqrt(1 + g^T (J^T J)^-1 g),    s^2 = SSR / (n - 3)

Paper: Deep Learning Scaling is Predictable, Empirically (Hestness et al., 2017), arXiv 1712.00409; with an irreducible
    loss also Training Compute-Optimal Large Language Models (Hoffmann et al., 2022), arXiv 2203.15556, equation 2.
Code: none.
Tags: learn, scaling-law.
Needs: columns named by ``variable`` (above 0) and ``target``, with at least three different values of the variable.
Differs: plain least squares on the loss, where Hoffmann et al. minimize a Huber loss of log L; both agree where the
    noise is small. A may be negative: the curve then rises towards E, as an accuracy does.
See: ``palimpsest fit``. The interval takes the residuals to be of one size at every x and the law to be right; it knows
    nothing of a curve that bends beyond the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palimpsest.audit import Row
from palimpsest.law import Point, Prediction, numbers
from palimpsest.resample import student_quantile

__all__ = ["METHOD", "FittedPowerLaw", "PowerLaw", "regression", "search"]

Array = NDArray[np.float64]

LOWEST, HIGHEST = 0.005, 5.0
"""The exponents that are tried."""

STARTS = 8


def regression(log_x: Array, y: Array, alpha: float) -> tuple[float, float, float]:
    """Least squares of y [N] on E + A exp(-alpha log_x) for a given alpha > 0 -> (SSR, E, A).

    The basis (exp(-alpha log_x) - 1) / alpha stays well conditioned as alpha falls, where it becomes -log_x.
    """
    basis = np.expm1(-alpha * log_x) / alpha
    off, rest = basis - basis.mean(), y - y.mean()
    slope = float(off @ rest / (off @ off))
    a = slope / alpha
    return float(np.square(rest - slope * off).sum()), float(y.mean() - slope * basis.mean()) - a, a


def search(log_x: Array, y: Array) -> list[tuple[float, float]]:
    """(SSR, alpha) that each start ended at, the best first: downhill in steps, then within the last two."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    step = (high - low) / (STARTS + 1)

    def at(place: int) -> float:
        return regression(log_x, y, math.exp(low + place * step))[0] if 0 <= place <= STARTS + 1 else math.inf

    found = []
    for place in range(1, STARTS + 1):
        while (better := min((place - 1, place + 1), key=at)) != place and at(better) < at(place):
            place = better
        bracket = max(low, low + (place - 1) * step), min(high, low + (place + 1) * step)
        found.append(_golden(log_x, y, *bracket))
    return sorted(found)


def _golden(log_x: Array, y: Array, low: float, high: float) -> tuple[float, float]:
    """The golden section on log alpha in one bracket."""
    ratio = (math.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [regression(log_x, y, math.exp(s))[0] for s in inner]
    for _ in range(60):
        if values[0] <= values[1]:
            high, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = high - ratio * (high - low)
            values[0] = regression(log_x, y, math.exp(inner[0]))[0]
        else:
            low, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = low + ratio * (high - low)
            values[1] = regression(log_x, y, math.exp(inner[1]))[0]
    return min(zip(values, map(math.exp, inner)))


@dataclass(frozen=True)
class FittedPowerLaw:
    """The constants in the variable's own units.

    ``objectives`` are the sums of squared residuals that the starts ended at; ``spread`` is s, and ``covariance``
    (J^T J)^-1 of (E, A', alpha), where A' = A / center^alpha.
    """

    variable: str
    target: str
    rows: int
    e: float
    a: float
    alpha: float
    objectives: tuple[float, ...]
    center: float
    spread: float
    covariance: Array

    def predict(self, point: Point) -> Prediction:
        """The target at ``{variable: x}``; the interval has no ends where three rows leave no residual.

        Raises ``ValueError`` for a point without the variable, and for an x of 0 or less.
        """
        if self.variable not in point:
            name = self.variable
            raise ValueError(f"The law needs a value of {name} to predict {self.target}; give {name}=number.")
        x = point[self.variable]
        if not (x > 0 and math.isfinite(x)):
            raise ValueError(f"{self.variable} must be a finite number above 0, not {x}.")
        log_u = math.log(x / self.center)
        power = math.exp(-self.alpha * log_u)
        scaled = self.a * self.center**-self.alpha
        gradient = np.array([1.0, power, -scaled * power * log_u])
        mean = self.e + scaled * power
        reach = self._reach(1 + float(gradient @ self.covariance @ gradient))
        return Prediction(mean, mean - reach, mean + reach)

    def describe(self) -> str:
        """The curve, the intervals of E and alpha, and how many starts agree on it."""
        best = self.objectives[0]
        slack = 1e-6 * best + 1e-12
        agreed = sum(value <= best + slack for value in self.objectives)
        e, alpha = (self._reach(float(self.covariance[i, i])) for i in (0, 2))
        sign = "-" if self.a < 0 else "+"
        return (
            f"{self.target} = {self.e:.5g} {sign} {abs(self.a):.5g} {self.variable}^-{self.alpha:.4g}\n"
            f"E {self.e:.5g} [{self.e - e:.5g}, {self.e + e:.5g}], "
            f"alpha {self.alpha:.4g} [{self.alpha - alpha:.4g}, {self.alpha + alpha:.4g}]\n"
            f"{self.rows} rows, residuals of {self.spread:.3g}, {agreed} of {len(self.objectives)} starts agree"
        )

    def _reach(self, variance: float) -> float:
        """Half the width of a 95 % interval of a figure whose variance is ``variance`` times s squared."""
        freedom = self.rows - 3
        if freedom < 1 or not math.isfinite(variance):
            return math.inf
        return student_quantile(freedom) * self.spread * math.sqrt(max(variance, 0.0))


@dataclass(frozen=True)
class PowerLaw:
    """``variable`` and ``target`` name the table's columns."""

    variable: str = "x"
    target: str = "loss"

    @property
    def variables(self) -> tuple[str, ...]:
        """The one column that the curve depends on."""
        return (self.variable,)

    def fit(self, rows: Sequence[Row]) -> FittedPowerLaw:
        """The constants that fit ``rows`` best; values may be numbers or their text.

        Raises ``ValueError`` for fewer than three different x, an x of 0 or less, a missing or unreadable value, a
        target that never changes, and a table whose best exponent lies at the end of what is tried.
        """
        x = np.array(numbers(rows, self.variable, "power_law"))
        y = np.array(numbers(rows, self.target, "power_law"))
        self._check(x, y)
        center = math.exp(float(np.log(x).mean()))
        log_u = np.log(x / center)
        found = search(log_u, y)
        alpha = found[0][1]
        if not LOWEST * 1.01 < alpha < HIGHEST / 1.01:
            raise ValueError(
                f"No power law fits: the best exponent of {self.variable} lies at the end of {LOWEST}..{HIGHEST}; "
                f"check that {self.target} falls (or rises) towards a floor."
            )
        ssr, e, a = regression(log_u, y, alpha)
        power = np.exp(-alpha * log_u)
        jacobian = np.stack([np.ones_like(power), power, -a * power * log_u], axis=1)  # [N, 3]
        spread = math.sqrt(ssr / (len(x) - 3)) if len(x) > 3 else 0.0
        covariance = np.linalg.pinv(jacobian.T @ jacobian)
        objectives = tuple(value for value, _ in found)
        return FittedPowerLaw(
            self.variable, self.target, len(x), e, a * center**alpha, alpha, objectives, center, spread, covariance
        )

    def _check(self, x: Array, y: Array) -> None:
        different = len(np.unique(x))
        if different < 3:
            raise ValueError(
                f"A power law has three constants, so the table needs at least three different {self.variable}, "
                f"not {different}; add runs."
            )
        if (x <= 0).any():
            place = int(np.argmax(x <= 0))
            raise ValueError(f"power_law: the {self.variable} of row {place + 1} is {x[place]:g}; it must be above 0.")
        if np.ptp(y) == 0:
            raise ValueError(f"{self.target} is {y[0]:g} in every row, so there is no curve to fit; check the column.")


METHOD = PowerLaw
