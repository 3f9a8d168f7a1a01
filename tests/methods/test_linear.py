"""A warm-up and a line down, against transformers."""

import pytest
import torch

from palimpsest.schedules.linear import Linear


@pytest.mark.parametrize(("floor", "values"), [(0.0, (0, 0.5, 1, 0.5, 0)), (0.2, (0, 0.5, 1, 0.6, 0.2))])
def test_by_hand(floor, values):
    assert [Linear(0.2, floor)(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(values, abs=1e-12)


def test_against_transformers():
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = get_linear_schedule_with_warmup(optimizer, 8, 40)
    for step in range(40):
        assert Linear(0.2)(step / 40) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        peer.step()


def test_no_warm_up_and_nothing_else():
    assert Linear(0.0)(0.0) == 1.0 and Linear(0.0)(1.0) == 0.0
    assert [Linear(1.0)(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("fields", [{"warmup": 1.5}, {"floor": -1.0}])
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValueError, match=r"lies in|is a share"):
        Linear(**fields)
