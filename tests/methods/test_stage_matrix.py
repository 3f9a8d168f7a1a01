"""Differences between the stage matrices of two runs: the same items and seeds are drawn for both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.run_folder import add_scores
from palimpsest.stage_matrix import Rows, stage_matrices
from palimpsest.watch import Watched

TASKS = {"before": "old", "next": "new"}
SEEDS = (0, 1, 2)


def rows(folder: Path, seed: int, stages: tuple[str, ...], gain: float) -> Rows:
    """Items and seeds that differ much; after the first stage of a run each item is higher by ``gain``."""
    found = []
    for place, stage in enumerate(stages):
        file = folder / f"{seed}-{place}.jsonl"
        folder.mkdir(exist_ok=True)
        for role in TASKS.values():
            rng = np.random.default_rng([seed, place > 0, role == "new"])
            items = torch.as_tensor(rng.normal(0.2 * seed - 0.3 * (place > 0), 0.3, 20) + gain * (place > 0))
            add_scores(file, Scores("recall", items, tuple(f"i{i}" for i in range(20)), role=role))
        found.append((stage, file))
    return found


def watched(seed: int, gain: float) -> list[Watched | None]:
    depths = (0.3, 0.6, 0.4)
    old = [(0, 0.9), (8, 0.9 - depths[seed] + gain), (16, 0.8)]
    return [Watched(8, {"old/recall": old, "new/recall": [(0, 0.1), (8, 0.5), (16, 0.6)]})]


def test_differences_are_paired_by_item_and_by_seed(tmp_path: Path) -> None:
    gains = {"after": 0.0, "mixed": 0.05}
    stages = ("before", "next")
    staged = {run: {s: rows(tmp_path / run, s, stages, gain) for s in SEEDS} for run, gain in gains.items()}
    curves = {run: {s: watched(s, gain) for s in SEEDS} for run, gain in gains.items()}
    after, mixed = stage_matrices(staged, TASKS, curves, resamples=200)
    assert not after.differences
    found = {f.name: f for f in mixed.differences}
    for name in ("overall_performance", "backward_transfer", "worst_of_earlier (every 8 steps)"):
        ends = (found[name].value, found[name].low, found[name].high)
        assert ends == pytest.approx((0.05,) * 3), "items and seeds vary far more than that"
    assert found["gap_depth (every 8 steps)"].value == pytest.approx(-0.05)
    wide = {f.name: f.high - f.low for f in mixed.figures}
    assert wide["backward_transfer"] > 0.1 and wide["gap_depth (every 8 steps)"] > 0.1


def test_runs_of_different_lengths_are_compared_after_their_last_stages(tmp_path: Path) -> None:
    lengths = {"after": ("before", "next"), "longer": ("before", "next", "once more")}
    staged = {run: {s: rows(tmp_path / run, s, own, 0.0) for s in SEEDS} for run, own in lengths.items()}
    after, longer = stage_matrices(staged, TASKS, resamples=200)
    assert longer.stages == lengths["longer"] and len(after.values) == 2
    found = {f.name: f for f in longer.differences}
    ends = (found["overall_performance"].low, found["overall_performance"].high)
    assert ends == pytest.approx((0.0, 0.0)), "the last row of each, and not the row of one number"
    assert math.isnan(found["forgotten_per_gained"].value), "no task is taught by the last stage of the longer run"
