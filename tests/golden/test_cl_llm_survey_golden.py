"""Figures of the stage matrix against numbers of mammoth and avalanche; where those differ, the file says why."""

import json
from pathlib import Path

import pytest

from palimpsest.continual import (
    StageMatrix,
    average_performance,
    backward_transfer,
    forgetting_initial,
    forgetting_max,
    forgetting_peak,
    forward_transfer,
    trajectory,
)

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("cl-llm-survey.json").read_text())["cases"]}
FULL = [what for what, case in CASES.items() if "card_definitions" in case["outputs"]]


def matrix_of(case):
    rows = case["inputs"]["matrix"]
    tasks = len(rows)
    padded = [[None] * tasks, *([*row, *[None] * (tasks - len(row))] for row in rows)]
    chance = case["inputs"]["random_reference"]
    return StageMatrix.of(padded, range(1, tasks + 1), better="higher", chance=chance)


def close(found, expected):
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_file_holds_the_cases():
    assert len(FULL) >= 4 and len(CASES) > len(FULL)


@pytest.mark.parametrize("what", FULL)
def test_all_definitions(what):
    case = CASES[what]
    matrix, wanted = matrix_of(case), case["outputs"]["card_definitions"]
    close(trajectory(matrix), wanted["overall_performance"])
    close(average_performance(matrix), wanted["average_incremental"])
    close(forgetting_max(matrix), wanted["forgetting_survey_max_before_last"])
    close(forgetting_peak(matrix), wanted["forgetting_max_from_own_stage"])
    close(forgetting_initial(matrix), wanted["forgetting_initial"])
    close(backward_transfer(matrix), wanted["bwt"])
    close(forward_transfer(matrix), wanted["fwt"])


@pytest.mark.parametrize("what", CASES)
def test_the_libraries(what):
    case = CASES[what]
    matrix, outputs = matrix_of(case), case["outputs"]
    close(backward_transfer(matrix), outputs["mammoth"]["bwt"])
    close(backward_transfer(matrix), outputs["avalanche"]["bwt_mean"])
    close(forgetting_initial(matrix), outputs["avalanche"]["forgetting_mean"])
    if "fwt" in outputs["mammoth"]:
        close(forward_transfer(matrix), outputs["mammoth"]["fwt"])
    else:
        assert forward_transfer(matrix) is None and forgetting_max(matrix) is None


@pytest.mark.parametrize("what", FULL)
def test_mammoth_forgetting_clips_each_task(what):
    """It takes the maximum over all rows, the last included, so a task that improved counts 0."""
    case = CASES[what]
    rows = case["inputs"]["matrix"]
    last, earlier = rows[-1], range(len(rows) - 1)
    clipped = [max(0.0, max(row[i] for row in rows[:-1]) - last[i]) for i in earlier]
    close(sum(clipped) / len(clipped), case["outputs"]["mammoth"]["forgetting"])
    assert forgetting_max(matrix_of(case)) <= case["outputs"]["mammoth"]["forgetting"] + 1e-12
