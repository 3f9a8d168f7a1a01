"""Warm-up, a constant phase and a decay: shapes by hand, and transformers' own schedule."""

import itertools

import pytest
import torch

from palimpsest.schedules.wsd import WSD

SHAPES = ("linear", "inverse", "cosine", "one_minus_sqrt", "exponential")


@pytest.mark.parametrize(
    ("shape", "half"),
    [
        ("linear", 0.55),
        ("inverse", 1 / 5.5),
        ("cosine", 0.55),
        ("one_minus_sqrt", 0.3636038969),
        ("exponential", 0.1**0.5),
    ],
)
def test_the_middle_of_a_decay_by_hand(shape, half):
    schedule = WSD(warmup=0.1, decay=0.5, floor=0.1, shape=shape)
    assert [schedule(p) for p in (0.05, 0.1, 0.3, 0.5, 0.75, 1.0)] == pytest.approx(
        [0.5, 1, 1, 1, half, 0.1], abs=1e-10
    )


def test_the_inverse_shape_is_a_straight_line_in_one_over_the_rate():
    schedule = WSD(warmup=0.0, decay=1.0, floor=0.1)
    inverse = [1 / schedule(i / 50) for i in range(51)]
    steps = [b - a for a, b in itertools.pairwise(inverse)]
    assert steps == pytest.approx([9 / 50] * 50, abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_end_depends_on_the_length(shape):
    """A run of 200 steps is the run of 100 steps up to where that one decays."""
    short, long = WSD(0.1, 0.2, shape=shape), WSD(0.05, 0.1, shape=shape)
    assert [short(i / 100) for i in range(80)] == pytest.approx([long(i / 200) for i in range(80)], abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_falls_to_its_floor_and_stays(shape):
    values = [WSD(0.0, 1.0, 0.2, shape)(i / 100) for i in range(111)]
    assert all(a > b for a, b in itertools.pairwise(values[:101])) and values[0] == 1.0
    assert values[100:] == pytest.approx([0.2] * 11, abs=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "cosine"), ("one_minus_sqrt", "1-sqrt")])
def test_against_transformers(ours, theirs):
    from transformers import get_wsd_schedule

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = {"num_warmup_steps": 10, "num_stable_steps": 70, "num_decay_steps": 20, "decay_type": theirs}
    peer = get_wsd_schedule(optimizer, **options)
    schedule = WSD(0.1, 0.2, floor=0.0, shape=ours)
    for step in range(100):
        assert schedule(step / 100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        peer.step()


def test_without_a_decay_it_stays_at_the_peak():
    assert [WSD(0.25, 0.0)(p) for p in (0.0, 0.125, 0.25, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert [WSD(1.0, 0.0)(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup": -0.1}, r"warmup is a share"),
        ({"warmup": 0.6, "decay": 0.6}, r"longer than the stage \(warmup 0\.6 \+ decay 0\.6\)"),
        ({"floor": 1.5}, r"floor lies in \[0, 1\]"),
        ({"floor": 0.0}, r"shape inverse never reaches 0; give floor"),
        ({"floor": 0.0, "shape": "exponential"}, r"never reaches 0"),
        ({"shape": "round"}, r"not 'round'; choose"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WSD(**fields)
