"""Which way a report calls better: what the recipe expects decides, then the audit."""

from __future__ import annotations

import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.page.sections import axis_label
from palimpsest.report import Run

RUNS = [Run("before", "before"), Run("after", "after"), Run("retrained", "baseline")]


@pytest.mark.parametrize(
    ("expected", "own", "better"),
    [
        (None, "higher", "higher"),
        ("nearer retrained", "higher", "nearer:retrained"),
        ("lower", "higher", "lower"),
        ({"at most": 0.1}, "higher", "lower"),
        ({"at least": 5.0}, "lower", "higher"),
        ({"change": "< -0.2"}, "higher", "lower"),
        ({"change": "> 50 %"}, "lower", "higher"),
        ({"change": "> -0.05"}, "higher", "higher"),
        ({"change": "< 3 %"}, "higher", "higher"),  # what is kept has no direction
        ({"change": "within 0.1"}, "lower", "lower"),
    ],
)
def test_a_figure_is_better_in_the_direction_that_the_recipe_expects(expected: object, own: str, better: str) -> None:
    scores = Scores("exact_match", torch.tensor([0.5, 0.7]), ("a", "b"), own, "forget")
    expect = {} if expected is None else {"forget/exact_match": expected}
    report = build_report("run", {run.name: {0: [scores]} for run in RUNS}, RUNS, expect=expect)  # type: ignore[arg-type]
    assert {s.better for s in report.scores} == {better}
    assert f"({better.replace(':', ' ')} is better)" in axis_label(report, ("forget", "exact_match"))
