"""Figures of per-step curves against numbers of Mattdl/ContinualEvaluation@7ffa368.

Its windowed plasticity is too small (the file says why); the definition's values stand beside it and count here.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from palimpsest.curves import (
    StepCurves,
    largest_drop,
    largest_rise,
    learning_curve_area,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_performance,
    worst_of_earlier,
)
from palimpsest.drift import feature_drift

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("continual-eval.json").read_text())["cases"]}
STREAMS = [what for what, case in CASES.items() if "steps_per_task" in case["params"]]


def curves_of(case):
    """Iteration n of the file is the measurement after step n + 1; the first task may have one before step 1."""
    lengths, before = case["params"]["steps_per_task"], case["params"]["acc_before_first_update"]
    (table,) = case["inputs"].values()
    stages, start = [], 0
    for number, length in enumerate(lengths):
        known = {f"t{i}": [(n + 1, row[start + n]) for n in range(length)] for i, row in enumerate(table[: number + 1])}
        if number == 0 and before is not None:
            known["t0"] = [(0, before), *known["t0"]]
        stages.append(known)
        start += length
    return StepCurves.joined(stages, {f"t{i}": i + 1 for i in range(len(lengths))}, better="higher")


def own(curves, task):
    """A task's curve from its first measurement, as its windows see it."""
    return curves.values[~torch.isnan(torch.from_numpy(curves.values[:, task])).numpy(), task]


def mean(values):
    return sum(values) / len(values)


def test_the_file_holds_the_cases():
    assert len(STREAMS) == 5


@pytest.mark.parametrize("what", STREAMS)
def test_worst_values(what):
    """The file's means are float32: 1e-6."""
    case = CASES[what]
    curves, outputs = curves_of(case), case["outputs"]
    found = [worst_case_performance(curves, at) for at in curves.steps if at > 0]
    assert found == pytest.approx(outputs["wc_acc_trajectory"], abs=1e-6)
    assert worst_case_performance(curves) == pytest.approx(outputs["wc_acc"], abs=1e-6)
    minimum = worst_of_earlier(curves)
    assert minimum == (outputs["min_acc_mean"] and pytest.approx(outputs["min_acc_mean"], abs=1e-6))
    for at, minima in zip((s for s in curves.steps if s > 0), outputs["min_acc_trajectory"], strict=True):
        known = [m for m in minima if m is not None]
        assert worst_of_earlier(curves, at) == (pytest.approx(mean(known), abs=1e-9) if known else None)


@pytest.mark.parametrize("what", STREAMS)
def test_windows_and_area(what):
    case = CASES[what]
    curves, outputs = curves_of(case), case["outputs"]
    assert learning_curve_area(curves, case["params"]["lca_beta"]) == pytest.approx(outputs["lca"], abs=1e-6)
    for window in case["params"]["windows"]:
        drops, rises = outputs[f"wf_{window}"], outputs[f"wp_{window}_definition"]
        assert [largest_drop(own(curves, i), window) for i in range(len(drops))] == pytest.approx(drops, abs=1e-9)
        assert [largest_rise(own(curves, i), window) for i in range(len(rises))] == pytest.approx(rises, abs=1e-9)
        assert windowed_forgetting(curves, window) == pytest.approx(mean(drops), abs=1e-9)
        assert windowed_plasticity(curves, window) == pytest.approx(mean(rises), abs=1e-9)


def test_the_released_shortcut_is_not_reproduced():
    outputs = CASES["hand example, two tasks, evaluation every step"]["outputs"]
    assert outputs["wp_10_code"][0] == 0.0 and math.isclose(outputs["wp_10_definition"][0], 0.3)


def test_feature_drift():
    case = CASES["feature drift between the features before and after one update"]
    before, after = (torch.tensor(case["inputs"][key], dtype=torch.float64) for key in ("before", "after"))
    assert float(feature_drift(before, after)) == pytest.approx(case["outputs"]["drift"], abs=1e-8)
