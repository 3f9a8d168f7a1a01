"""The river valley in two dimensions: the full rate moves along the river, and only a decay shows how far it came."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from palimpsest.objective import Schedule
from palimpsest.schedules.cosine import Cosine
from palimpsest.schedules.wsd import WSD
from palimpsest.schedules.wsd_s import WSDS

SLOPE, SHARP, NOISE, PEAK = 0.002, 10.0, 1.0, 0.1
"""loss = -SLOPE x + SHARP y^2 / 2, with noise of that size on the gradient across the river."""


def losses(schedule: Schedule, steps: int, walkers: int = 4000) -> dict[str, list[float]]:
    """River, hill and whole loss after every step, a mean over walkers that start at the bottom of the valley."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.zeros(walkers), torch.zeros(walkers)
    found: dict[str, list[float]] = {"river": [], "hill": [], "whole": []}
    for step in range(steps):
        rate = PEAK * schedule(step / steps)
        noise: Tensor = NOISE * torch.randn(walkers, generator=generator)
        x, y = x + rate * SLOPE, y - rate * (SHARP * y + noise)
        found["river"].append(float(-SLOPE * x.mean()))
        found["hill"].append(float((SHARP * y**2 / 2).mean()))
        found["whole"].append(found["river"][-1] + found["hill"][-1])
    return found


def test_at_the_full_rate_the_hill_has_the_height_that_theory_gives() -> None:
    """E[y^2] = eta sigma^2 / (g (2 - eta g)): 0.01 here, and a hill of half of g times it."""
    found = losses(WSD(0.0, 0.0), 200)["hill"]
    assert sum(found[50:]) / 150 == pytest.approx(PEAK * NOISE**2 / (2 * (2 - PEAK * SHARP)), rel=0.03)


def test_every_budget_ends_near_the_river_and_farther_down_it() -> None:
    ends, steps = (500, 1000, 2000), 2000
    found = losses(WSDS(ends, warmup=0.0), steps)
    for end in ends:
        decay = end // 10
        before, after = found["hill"][end - decay - 1], found["hill"][end - 1]
        assert after < 0.25 * before, "the decay lets it down from the hill"
        if end < steps:
            assert found["hill"][end + 20] > 0.8 * before, "and the jump puts it back"
    rivers = [found["river"][end - 1] for end in ends]
    assert rivers[0] > 1.8 * rivers[1] * 0.5 and rivers[2] < 1.9 * rivers[1] < 3.6 * rivers[0] < 0


def test_it_beats_the_full_rate_in_height_and_a_cyclic_cosine_in_distance() -> None:
    ends = (500, 1000, 2000)
    own = losses(WSDS(ends, warmup=0.0), 2000)
    cyclic = losses(WSDS(ends, warmup=0.0, decay=1.0, of="cycle", shape="cosine"), 2000)
    plain = losses(WSD(0.0, 0.0), 2000)
    alone = losses(Cosine(0.1), 2000)
    assert own["whole"][-1] < plain["whole"][-1] - 0.03
    assert own["river"][-1] < 1.4 * cyclic["river"][-1] < 0
    assert own["river"][-1] < 1.4 * alone["river"][-1] < 0
