"""Re-warming and re-decay: the card's values, transformers' schedule, and what a loop makes of it."""

import itertools
import math

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit, learning_rate
from palimpsest.objective import Objective, on
from palimpsest.schedules.rewarm import Rewarm, rewarm


def test_the_rates_by_hand():
    found = [rewarm(t, 100, 10, 3e-4, 3e-5) for t in (0, 5, 10, 55, 100, 130)]
    assert found == pytest.approx([0, 1.5e-4, 3e-4, 1.65e-4, 3e-5, 3e-5], abs=1e-16)


def test_against_transformers():
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    peer = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 10, 100, min_lr=3e-5)
    training = Training(steps=100, lr=3e-4, schedule=Rewarm(0.1, 0.1))
    for step in range(100):
        assert learning_rate(training, step, 100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        peer.step()
    assert Rewarm(0.1, 0.1)(1.0) * 3e-4 == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)


def test_no_warm_up_starts_at_the_peak_and_nothing_but_warm_up_never_falls():
    assert Rewarm(0.0)(0.0) == 1.0
    assert [Rewarm(1.0)(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_no_jump_and_never_below_the_floor():
    steps, warmup, floor = 200, 0.05, 0.1
    values = [Rewarm(warmup, floor)(t / steps) for t in range(steps + 50)]
    most = max(1 / (warmup * steps), math.pi * (1 - floor) / (2 * steps * (1 - warmup)))
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) <= most + 1e-12
    assert min(values[10:]) == pytest.approx(floor, abs=1e-12) and values[-1] == values[steps]


def test_the_curve_scales_with_the_peak_and_groups_keep_their_ratio():
    small, large = (Training(steps=50, lr=lr, schedule=Rewarm(0.1)) for lr in (1e-4, 3e-4))
    for step in range(50):
        assert learning_rate(large, step, 50) == pytest.approx(3 * learning_rate(small, step, 50), rel=1e-12)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1e-2, 1e-3)]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: Rewarm(0.1)(n / 50))
    for _ in range(50):
        a, b = (group["lr"] for group in optimizer.param_groups)
        assert a == pytest.approx(10 * b, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_gradient_descent_on_a_parabola_has_a_closed_form():
    """Oracle 7, through the loop: x_N - a = prod (1 - rate_t) (x_0 - a), with the rates of the card's formula."""

    class Parabola(Objective):
        unit = "example"

        def __call__(self, view, state=None):
            return (view.logits.squeeze(1) - 1.0).square() / 2

    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(model.weight, 3.0)
    roles = Classifier(1).roles(task=[{"inputs": torch.ones(1, dtype=torch.float64), "label": 0}] * 2)

    def plain(groups, lr, weight_decay):
        return torch.optim.SGD(groups, lr=lr)

    training = Training(steps=40, batch=2, lr=0.5, schedule=Rewarm(0.1, 0.1), optimizer=plain, clip=None)
    fit(model, roles, on("task", Parabola()), training)
    rates = [0.05 + 0.225 * (1 + math.cos(math.pi * (t - 4) / 36)) if t > 4 else 0.5 * t / 4 for t in range(40)]
    assert float(model.weight.detach()) - 1.0 == pytest.approx(2.0 * math.prod(1 - r for r in rates), rel=1e-9)


@pytest.mark.parametrize("fields", [{"warmup": 1.1}, {"warmup": -0.1}, {"floor": 1.1}, {"floor": -0.1}])
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValueError, match=r"lies in|is a share"):
        Rewarm(**fields)
