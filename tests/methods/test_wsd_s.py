"""Decays at several budgets of one run: the card's tables, the step at each jump, and bad budgets."""

import pytest
import torch

from palimpsest.schedules.wsd import WSD
from palimpsest.schedules.wsd_s import WSDS

TABLE = WSDS(budgets=(100, 200), warmup=10 / 200, decay=0.1, floor=0.1)


def rates(schedule, steps):
    return [schedule(step / steps) for step in range(steps)]


def test_the_table_by_hand():
    found = rates(TABLE, 200)
    assert found[:11] == pytest.approx([i / 10 for i in range(11)], abs=1e-12)
    assert found[10:90] == pytest.approx([1.0] * 80, abs=1e-12)
    assert [found[i] for i in (90, 91, 99, 100)] == pytest.approx([1.0, 1 / 1.9, 1 / 9.1, 1.0], abs=1e-9)
    assert found[100:180] == pytest.approx([1.0] * 80, abs=1e-12)
    assert found[180:] == pytest.approx([1 / (u / 20 * 9 + 1) for u in range(20)], abs=1e-9)
    assert TABLE(1.0) == pytest.approx(0.1, abs=1e-12)


def test_a_share_of_the_cycle_decays_later():
    found = rates(WSDS((100, 200), 10 / 200, 0.1, of="cycle"), 200)
    assert found[:180] == pytest.approx(rates(TABLE, 200)[:180], abs=1e-12)
    assert found[180:191] == pytest.approx([1.0] * 11, abs=1e-12)
    assert found[191:] == pytest.approx(found[91:100], abs=1e-9)


@pytest.mark.parametrize("times", [1, 3, 7])
@pytest.mark.parametrize("budgets", [(1, 3, 7), (100, 200, 350), (13, 17, 51, 360), (0.25, 0.5, 1.0)])
def test_the_step_after_a_budget_is_at_the_peak_and_the_one_before_it_is_not(budgets, times):
    """One step off would keep a model that took a step at the full rate after its decay."""
    schedule = WSDS(budgets, warmup=0.0, decay=1.0, of="cycle", shape="linear", floor=0.0)
    unit = 1 if budgets[-1] > 1 else 4
    steps = round(budgets[-1] * unit * times)
    found = rates(schedule, steps)
    ends = [round(budget * unit * times) for budget in budgets]
    for start, end in zip([0, *ends], ends):
        assert found[start] == pytest.approx(1.0, abs=1e-9)
        assert found[end - 1] == pytest.approx(1 / (end - start), abs=1e-9)


def test_one_budget_is_wsd_and_transformers():
    from transformers import get_wsd_schedule

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = get_wsd_schedule(optimizer, 10, 20, num_stable_steps=70, decay_type="linear", min_lr_ratio=0.0)
    schedule = WSDS((100,), 0.1, 0.2, floor=0.0, shape="linear")
    single = WSD(0.1, 0.2, 0.0, "linear")
    for step in range(100):
        value = schedule(step / 100)
        assert value == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        assert value == pytest.approx(single(step / 100), abs=1e-12)
        optimizer.step()
        peer.step()


def test_what_comes_before_a_decay_does_not_know_of_later_budgets():
    longer = WSDS((100, 200, 400), 10 / 400, 0.1)
    assert rates(longer, 400)[:200] == pytest.approx(rates(TABLE, 200), abs=1e-9)


def test_a_rewarm_up_climbs_from_the_floor():
    found = rates(WSDS((20, 40), 0.0, 0.25, of="cycle", rewarmup=0.2, shape="cosine"), 40)
    assert found[:3] == [1.0, 1.0, 1.0]
    assert found[20:25] == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0], abs=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budgets": ()}, r"budgets rise from above 0"),
        ({"budgets": (2, 2)}, r"budgets rise .* \[2, 2\]"),
        ({"budgets": (0, 2)}, r"budgets rise"),
        ({"budgets": (3, 2)}, r"put them in order"),
        ({"budgets": (90, 100), "decay": 0.2}, r"decay before budget 2 \(20\) .* longer than the 10 since"),
        ({"budgets": (10, 100), "warmup": 0.1, "decay": 0.2}, r"decay before budget 1"),
        ({"decay": 0.5, "of": "epoch"}, r"of is total or cycle"),
        ({"decay": 1.5}, r"decay is a share"),
        ({"floor": 0.0}, r"never reaches 0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WSDS(**fields)
