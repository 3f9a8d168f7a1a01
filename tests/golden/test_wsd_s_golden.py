"""WSD-S against numbers of stanford-crfm/levanter@9263f81, the framework that the paper's authors trained with."""

import json
from pathlib import Path

import pytest

from palimpsest.schedules.wsd import WSD
from palimpsest.schedules.wsd_s import WSDS

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("wsd-s.json").read_text())["cases"]}
SHAPES = {"inv": "inverse", "linear": "linear", "cosine": "cosine"}


def given(case):
    """The schedule of a case, and the first step of each of its decays."""
    params = case["params"]
    steps, cycles = params["total_steps"], params.get("cycles", [])
    ends = [*cycles, steps]
    starts = [0, *cycles]
    decay = params["decay"] if params["decay"] < 1 else params["decay"] / (ends[0] - starts[0])
    schedule = WSDS(
        tuple(ends),
        params["warmup"] / steps,
        decay,
        of="cycle",
        floor=params["min_lr_ratio"],
        shape=SHAPES[params["lr_schedule"]],
        rewarmup=params.get("rewarmup", 0) / (ends[0] - starts[0]),
    )
    return schedule, steps, [round(end - decay * (end - start)) for start, end in zip(starts, ends)]


def test_the_file_holds_the_cases():
    assert len(CASES) == 6


@pytest.mark.parametrize("what", [w for w, c in CASES.items() if c["params"]["decay"] is not None])
def test_every_step(what):
    case = CASES[what]
    schedule, steps, firsts = given(case)
    peak = case["params"]["learning_rate"]
    for step, rate in zip(case["inputs"]["steps"], case["outputs"]["lr"]):
        if case["params"]["lr_schedule"] == "inv" and step in firsts:
            assert schedule(step / steps) == 1.0  # theirs is one step further here, and stands still at the next
            step += 1
        assert peak * schedule(step / steps) == pytest.approx(rate, rel=1e-9)


def test_the_cyclic_cosine_is_a_decay_over_the_whole_cycle():
    case = CASES["cyclic cosine baseline (full decay in each cycle)"]
    found = WSDS((20, 40), 0.0, 1.0, of="cycle", shape="cosine")
    first = WSD(2 / 20, 18 / 20, shape="cosine")  # the first cycle has the warm-up
    for step, rate in zip(case["inputs"]["steps"], case["outputs"]["lr"]):
        value = first(step / 20) if step < 20 else found(step / 40)
        assert 1e-3 * value == pytest.approx(rate, rel=1e-9)
