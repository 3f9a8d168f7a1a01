"""The AUC of resamples, many measurements of the same items at a time, against scikit-learn with weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from palimpsest.resample import Array, draw_counts, figures


def drawn(
    measurements: int, items: int, resamples: int, decimals: int, share: float = 0.5
) -> tuple[Array, Array, Array]:
    """Items [M, N] that tie where they have few ``decimals``, groups [N] and counts [R, N]."""
    rng = np.random.default_rng(items)
    groups = rng.permutation((np.arange(items) < share * items) + 0.0)
    x = (rng.normal(size=(measurements, items)) + 0.5 * groups).round(decimals)
    return x, groups, draw_counts(rng, resamples, groups, items)


@pytest.mark.parametrize(
    ("items", "decimals", "share"), [(400, 8, 0.5), (400, 1, 0.5), (61, 0, 0.2), (5, 1, 0.7), (2, 1, 0.5)]
)
def test_each_resample_of_each_measurement_is_a_weighted_auc(items: int, decimals: int, share: float) -> None:
    x, groups, counts = drawn(4, items, 6, decimals, share)
    expected = [[roc_auc_score(groups, row, sample_weight=weights) for weights in counts] for row in x]
    found = figures(x, "auc", groups, counts)
    assert found.shape == (4, 6) and found == pytest.approx(np.array(expected), abs=1e-12)
    assert np.array_equal(figures(x[1], "auc", groups, counts), found[1])


def test_more_pairs_than_float32_can_count() -> None:
    """Of eighteen million pairs, of which float32 would lose some."""
    x, groups, counts = drawn(1, 8500, 6, 1)
    expected = [roc_auc_score(groups, x[0], sample_weight=weights) for weights in counts]
    assert figures(x, "auc", groups, counts)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("statistic", ["mean", "harmonic_mean"])
def test_measurements_together_are_those_one_by_one(statistic: str) -> None:
    x, _, counts = drawn(3, 30, 7, 1)
    x = np.abs(x)
    x[0, :4], x[2] = 0.0, 0.3
    found = figures(x, statistic, None, counts)  # type: ignore[arg-type]
    for own, row in zip(found, x):
        assert own == pytest.approx(figures(row, statistic, None, counts), abs=1e-14)  # type: ignore[arg-type]
    assert (found[2] == 0.3).all() or statistic != "mean"
