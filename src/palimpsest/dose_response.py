"""How a figure follows a dose: its slope and its rank correlation, with intervals over items and seeds.

    slope      least squares, in units of the figure for the step from dose 0 to dose 1
    Spearman   correlation of the ranks of doses and figures: -1 for a curve that always falls

The doses are points of one curve: a resample draws the same items and the same seeds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from palimpsest.audit import Scores
from palimpsest.resample import Array
from palimpsest.statistics import Interval, bootstrap_over_seeds, combined_bootstrap

__all__ = ["DoseResponse", "dose_response", "slope", "spearman"]


def slope(doses: Sequence[float], figures: Array) -> Array:
    """Least-squares slope of each curve: doses [K], figures [..., K] -> [...]."""
    x = _doses(doses)
    centered = x - x.mean()
    y = np.asarray(figures, dtype=np.float64)
    found: Array = (y - y[..., :1]) @ centered / (centered @ centered)  # so that a constant curve gives exactly 0
    return found


def spearman(doses: Sequence[float], figures: Array) -> Array:
    """Rank correlation of each curve with the dose, ties sharing their mean rank: figures [..., K] -> [...].

    A curve that is constant follows no dose: 0.
    """
    x, y = _ranks(_doses(doses)), _ranks(np.asarray(figures, dtype=np.float64))
    x, y = x - x.mean(), y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x @ x) * (y * y).sum(-1))
    found: Array = np.divide(y @ x, scale, out=np.zeros_like(scale), where=scale > 0)
    return found


def _doses(doses: Sequence[float]) -> Array:
    x = np.asarray(doses, dtype=np.float64)
    if len(x) < 2 or len(set(x.tolist())) < len(x):
        raise ValueError(f"A curve needs at least two doses, each once, not {list(doses)}.")
    return x


def _ranks(values: Array) -> Array:
    """Ranks along the last axis, tied values sharing the mean of theirs."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    same = (values[..., None, :] == values[..., :, None]).sum(-1)
    ranks: Array = below + (same + 1) / 2
    return ranks


@dataclass(frozen=True)
class DoseResponse:
    """``figures`` of each dose, and what the curve through them does."""

    doses: tuple[float, ...]
    figures: tuple[Interval, ...]
    slope: Interval
    spearman: Interval


def dose_response(
    doses: Sequence[float], arms: Sequence[Sequence[Scores]], *, resamples: int = 2000, seed: int = 0
) -> DoseResponse:
    """``arms`` holds for each dose the ``Scores`` of every seed, of the same items."""
    if len(doses) != len(arms):
        raise ValueError(f"{len(doses)} doses for {len(arms)} arms; give one of each.")

    def over(statistic: Callable[[Sequence[float], Array], Array]) -> Interval:
        return combined_bootstrap(
            arms, lambda *runs: statistic(doses, np.stack(runs, -1)), resamples=resamples, seed=seed
        )

    figures = tuple(bootstrap_over_seeds(arm, resamples=resamples, seed=seed) for arm in arms)
    return DoseResponse(tuple(doses), figures, over(slope), over(spearman))
