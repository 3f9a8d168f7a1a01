"""Re-warming against numbers of EleutherAI/gpt-neox@ea7aefd and axolotl-ai-cloud/axolotl@067b021."""

import json
from pathlib import Path

import pytest

from palimpsest.loop import Training, learning_rate
from palimpsest.schedules.linear import Linear
from palimpsest.schedules.rewarm import Rewarm, rewarm
from palimpsest.schedules.wsd import WSD

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("rewarm.json").read_text())["cases"]}
COSINES = (
    "cosine with warmup: the card hand values",
    "no warmup",
    "fractional warmup length (share x steps, not rounded)",
)


def test_the_file_holds_the_cases():
    assert len(CASES) == 8


@pytest.mark.parametrize("what", COSINES)
def test_cosine(what):
    case = CASES[what]
    peak, steps, warmup, floor = (case["params"][k] for k in ("start_lr", "total_iters", "warmup_iter", "min_lr"))
    schedule = Rewarm(warmup / steps, floor / peak)
    for step, rate in zip(case["inputs"]["steps"], case["outputs"]["lr"]):
        counted = max(1, step) if warmup else step  # their first step is counted as the second
        assert rewarm(counted, steps, warmup, peak, floor) == pytest.approx(rate, rel=1e-9)
        assert peak * schedule(counted / steps) == pytest.approx(rate, rel=1e-9)


def test_past_the_end_we_stay_where_they_rise():
    outputs = CASES["cosine past its end"]["outputs"]["lr"]
    assert outputs[-1] == 3e-4
    for step in CASES["cosine past its end"]["inputs"]["steps"]:
        assert 3e-4 * Rewarm(0.1, 0.1)(step / 100) == pytest.approx(3e-5, rel=1e-9)


@pytest.mark.parametrize(
    ("style", "schedule", "tolerance"),
    [
        ("linear", lambda p: max(0.1, Linear(0.1, 0.0)(p)), 1e-9),  # theirs is cut off at the floor
        ("exponential", WSD(0.1, 0.9, 0.5, "exponential"), 2e-4),  # theirs has 0.693 for the logarithm of 2
        ("constant", WSD(0.1, 0.0), 1e-9),
    ],
)
def test_other_styles(style, schedule, tolerance):
    case = CASES["other decay styles: linear, exponential, constant"]
    for step, rate in zip(case["inputs"]["steps"], case["outputs"][style]):
        assert 3e-4 * schedule(max(1, step) / 100) == pytest.approx(rate, rel=tolerance)


def test_groups_keep_their_ratio():
    case = CASES["three parameter groups with width multipliers 1, 4, none"]
    for step, rates in zip(case["inputs"]["steps"], case["outputs"]["lr[step][group]"]):
        value = 3e-4 * Rewarm(0.1, 0.1)(max(1, step) / 100)
        assert [value / (width or 1) for width in case["inputs"]["width_mult"]] == pytest.approx(rates, rel=1e-9)


def test_a_new_phase_is_a_fresh_schedule():
    case = next(c for w, c in CASES.items() if w.startswith("state of a run"))
    new, outputs = case["params"]["new"], case["outputs"]
    training = Training(steps=new["total_iters"], lr=new["start_lr"], schedule=Rewarm(4 / 200, 0.1))
    fresh = [learning_rate(training, max(1, step), 200) for step in case["inputs"]["steps"]]
    assert fresh == pytest.approx(outputs["fresh schedule (what a new phase needs)"], rel=1e-9)
    assert fresh[0] != pytest.approx(outputs["override (new settings, old iteration count)"][0], rel=0.1)


@pytest.mark.parametrize(("ratio", "end"), [("0.8", 80), ("1.0", 100)])
def test_axolotl(ratio, end):
    case = CASES["axolotl cosine that reaches the minimum after a share of the run and stays there"]
    for step, rate in zip(case["inputs"]["steps"], case["outputs"]["lr"][ratio]):
        assert rewarm(step, end, 10, 3e-4, 3e-5) == pytest.approx(rate, abs=1e-15)
