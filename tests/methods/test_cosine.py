"""Half a cosine wave with a floor, against torch's own schedule."""

import itertools

import pytest
import torch

from palimpsest.schedules.cosine import Cosine


@pytest.mark.parametrize(("floor", "values"), [(0.0, (1.0, 0.5, 0.0)), (0.1, (1.0, 0.55, 0.1)), (1.0, (1.0, 1.0, 1.0))])
def test_by_hand(floor, values):
    assert [Cosine(floor)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx(values, abs=1e-12)


def test_against_torch():
    steps, floor = 40, 0.05
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=floor)
    for step in range(steps):
        assert Cosine(floor)(step / steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        schedule.step()


def test_falls_all_the_way():
    values = [Cosine(0.2)(i / 100) for i in range(101)]
    assert all(a > b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_a_floor_out_of_range_is_refused(floor):
    with pytest.raises(ValueError, match=r"floor lies in \[0, 1\]"):
        Cosine(floor)
