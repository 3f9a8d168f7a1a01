"""A warm-up and a fall with the square root, against the paper's formula and transformers."""

import pytest
import torch

from palimpsest.schedules.inverse_square_root import InverseSquareRoot


@pytest.mark.parametrize("timescale", [None, 25])
def test_against_transformers(timescale):
    from transformers import get_inverse_sqrt_schedule

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = get_inverse_sqrt_schedule(optimizer, 10, timescale=timescale)
    schedule = InverseSquareRoot(0.1, None if timescale is None else timescale / 100)
    for step in range(100):
        assert schedule(step / 100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        peer.step()


def test_the_papers_formula():
    """min(t^-1/2, t W^-3/2) over its largest value, which is W^-1/2."""
    warmup, steps = 20, 200
    for step in range(1, steps):
        value = min(step**-0.5, step * warmup**-1.5) * warmup**0.5
        assert InverseSquareRoot(warmup / steps)(step / steps) == pytest.approx(value, abs=1e-12)


def test_half_of_the_square_is_left_after_the_timescale():
    assert InverseSquareRoot(0.0, 0.1)(0.1) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"warmup": 0.0}, r"no timescale; give"), ({"timescale": 0.0}, r"above 0"), ({"warmup": 2.0}, r"is a share")],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InverseSquareRoot(**fields)
