"""What ``compare`` holds a run against, and what it leaves out, on folders written by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.cli import main
from palimpsest.compare import compare
from palimpsest.measure import build_report
from palimpsest.page import render
from palimpsest.report import Report, Run
from palimpsest.run_folder import add_scores

KINDS = {"before": "before", "after": "after", "retrained": "baseline"}
RECIPE = """
audits: {forget: [rouge], retain: [rouge]}
expect: {forget/rouge: nearer retrained, retain/rouge: {change: "> -0.1"}}
"""


def folder(
    place: Path, levels: Mapping[str, float], roles: str = "forget retain", rows: int = 20, seed: int = 0
) -> Path:
    """A finished run whose models have the figures ``levels``."""
    noise = np.random.default_rng(0).normal(0, 0.01, rows)
    measured = {}
    for run, level in levels.items():
        ids = tuple(f"q{i}" for i in range(rows))
        found = [Scores("rouge", torch.as_tensor(level + noise), ids, role=role) for role in roles.split()]
        (place / f"seed-{seed}" / run).mkdir(parents=True)
        for scores in found:
            add_scores(place / f"seed-{seed}" / run / "scores.jsonl", scores)
        measured[run] = {seed: found}
    runs = [Run(run, KINDS[run]) for run in levels]  # type: ignore[arg-type]
    build_report(place.name, measured, runs, recipe_text=f"seeds: [{seed}]{RECIPE}", resamples=50).save(
        place / "report.json"
    )
    return place


def verdicts(report: Report) -> dict[tuple[str, str], tuple[str, str]]:
    return {(v.run, v.role): (v.verdict, v.sentence) for v in report.verdicts}


def test_runs_that_start_alike_share_a_column(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"before": 0.9, "after": 0.4, "retrained": 0.3})
    b = folder(tmp_path / "b", {"before": 0.9, "after": 0.5, "retrained": 0.3})
    c = folder(tmp_path / "c", {"before": 0.9, "after": 0.6})
    report = compare([a, b, c])
    assert [r.name for r in report.runs] == ["before", "retrained", "a", "b", "c"]
    assert {(r.before, r.retrained) for r in report.runs} == {("before", "retrained")}
    assert report.warnings == () and verdicts(report)["c", "forget"][0] == "forgotten"


def test_each_run_is_held_against_the_model_it_started_from(tmp_path: Path) -> None:
    """In any order of the folders the same is said of a run."""
    a = folder(tmp_path / "a", {"before": 0.9, "after": 0.4, "retrained": 0.3})
    b = folder(tmp_path / "b", {"before": 0.5, "after": 0.7, "retrained": 0.2})
    one, other = compare([a, b]), compare([b, a])
    assert [r.name for r in one.runs] == ["before", "retrained", "b: before", "b: retrained", "a", "b"]
    assert one.warnings == ("b did not start as a did, so it is held against its own model before.",)
    assert verdicts(one) == verdicts(other)
    assert verdicts(one)["b", "forget"][0] == "failed" and "rose from 0.50 to 0.70" in verdicts(one)["b", "forget"][1]
    assert "the retrained model has 0.20" in verdicts(one)["b", "forget"][1]
    changes = {(c.run, c.role): c.change for c in one.changes}
    assert changes["b", "forget"] == pytest.approx(0.2) and changes["b: retrained", "forget"] == pytest.approx(-0.3)
    assert not {run for run, _ in changes} & {"before", "b: before"}
    found = {(v.run, v.reference) for v in one.versus}
    assert found == {("a", "retrained"), ("b", "b: retrained"), ("b", "a")}
    strips = [line for line in render(one).split("<li ") if line.startswith('class="verdict ')]
    assert ["b: before" in strip for strip in strips] == [v.run == "b" for v in one.verdicts]


def test_another_retrained_model_of_the_same_start_is_a_column_of_its_own(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"before": 0.9, "after": 0.4, "retrained": 0.3})
    b = folder(tmp_path / "b", {"before": 0.9, "after": 0.4, "retrained": 0.8})
    report = compare([a, b])
    assert {r.name: (r.before, r.retrained) for r in report.runs}["b"] == ("before", "b: retrained")
    assert "has 0.80" in verdicts(report)["b", "forget"][1] and "has 0.30" in verdicts(report)["a", "forget"][1]


def test_which_retrained_model_is_meant_is_not_guessed(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"before": 0.9, "after": 0.4, "retrained": 0.3})
    b = folder(tmp_path / "b", {"before": 0.9, "after": 0.4, "retrained": 0.8})
    c = folder(tmp_path / "c", {"before": 0.9, "after": 0.5})
    for order in ([a, b, c], [c, b, a]):
        report = compare(order)
        assert {r.name: r.retrained for r in report.runs}["c"] == ""
        assert report.warnings == (
            "There is not exactly one retrained model that started as c did, so it is held against none.",
        )


def test_nothing_holds_a_run_against_a_retrained_model_of_another_start(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"before": 0.9, "after": 0.4, "retrained": 0.3})
    b = folder(tmp_path / "b", {"before": 0.5, "after": 0.4})
    report = compare([a, b])
    assert (
        report.warnings[-1]
        == "There is not exactly one retrained model that started as b did, so it is held against none."
    )
    assert verdicts(report)["b", "forget"][0] == "not shown"
    assert {v.reference for v in report.versus if v.run == "b"} == {"a"}


def test_what_is_shared_is_compared_and_the_rest_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {"before": 0.9, "after": 0.4}
    a, b = folder(tmp_path / "a", levels), folder(tmp_path / "b", levels, roles="retain general")
    report = compare([a, b])
    assert {s.role for s in report.scores} == {"retain"} and [v.role for v in report.verdicts] == ["retain", "retain"]
    assert report.warnings == ("forget/rouge is left out: measured in only one of a and b.",)
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    assert f"Warning: {report.warnings[0]}\n" in capsys.readouterr().out
    none = folder(tmp_path / "c", levels, roles="general")
    with pytest.raises(ValueError, match=r"^forget/rouge was measured in only one of a and c, and no other figure is"):
        compare([a, none])


def test_other_rows_and_other_seeds_are_named_by_folder(tmp_path: Path) -> None:
    levels = {"before": 0.9, "after": 0.4}
    a = folder(tmp_path / "a", levels)
    with pytest.raises(ValueError, match=r"^forget/rouge: the item 'q19' stands in only one of a and fewer, and no"):
        compare([a, folder(tmp_path / "fewer", levels, rows=19)])
    with pytest.raises(ValueError, match=r"^a ran the seeds \[0\] and dpo \[1\]; compare runs of the same seeds"):
        compare([a, folder(tmp_path / "dpo", levels, seed=1)])


def test_a_report_from_before_runs_named_their_start_is_read(tmp_path: Path) -> None:
    file = folder(tmp_path / "a", {"before": 0.9, "after": 0.4}) / "report.json"
    kept = Report.load(file)
    text = file.read_text().replace(',\n   "before": "before",\n   "retrained": "retrained"\n', "\n")
    assert '"retrained"' not in text
    file.write_text(text)
    assert dataclasses.replace(Report.load(file), created=kept.created).runs == kept.runs
