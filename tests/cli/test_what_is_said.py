"""What the terminal and the head of the page say: verdicts, variants, units, and the exit status of a strict run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.cli import main
from palimpsest.measure import build_report
from palimpsest.page import render
from palimpsest.report import Change, Matrix, Report, Run, Score
from palimpsest.verbs import _verdicts
from palimpsest.verdict import Verdict

RECIPE = """
name: digits
model: {pretrained: digits-mlp, adapter: classifier}
roles: {task: {file: rows.jsonl, rows: 12}}
objective: [{on: task, cross_entropy: {}}]
train: {steps: 12, batch: 4, lr: 1e-2}
variants: {slower: {train: {steps: 1, batch: 4, lr: 1e-5}, objective: [{on: task, cross_entropy: {}}]}}
audits: {task: [accuracy, probability]}
expect: {task/probability: higher}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("said") / "digits.yaml"
    rows = ({"inputs": [i / 12] * 64, "label": i % 2} for i in range(12))
    (file.parent / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file.write_text(RECIPE)
    return file


def test_a_strict_run_ends_with_the_status_of_its_verdicts(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when it is finished, and only judged by other words."""
    command = ["run", str(recipe), "--out", str(recipe.parent / "out")]
    assert main([*command, "--strict"]) == 0
    assert capsys.readouterr().out.startswith("LEARNED ")
    for wanted, finding in (("lower", "FAILED"), ("{change: '< 0'}", "FAILED"), ("{change: within 0}", "LOST")):
        other = [*command, "--set", f"expect.task/probability={wanted}"]
        assert main([*other, "--strict"]) == 1 and main(other) == 0
        assert capsys.readouterr().out.startswith(f"{finding:10s} task / probability rose from")
    assert main([*command, "--set", "expect={}", "--strict"]) == 0


def test_what_is_judged_is_told_of_variants_too(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), "--out", str(recipe.parent / "out")]) == 0
    said = capsys.readouterr().out
    told = said.partition("Variants, as changes from before:\n")[2].partition("\n\n")[0].splitlines()
    assert len(told) == 1 and re.fullmatch(r"slower: task / probability [+-]\d\.\d{3}  \[.*\]", told[0]), said


@pytest.mark.parametrize("flags", [[], ["--set", "expect={}", "--set", "expect.task/probability=lower"]])
def test_an_audit_says_that_it_does_not_judge(
    recipe: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    out = recipe.parent / "audited"
    assert main(["audit", str(recipe), "--out", str(out), *flags]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Warning: expect is left out") and "task / probability: 0." in said
    page = (out / "report.html").read_text()
    assert "1 model measured · 1 seed" in page and "held against" not in page


def test_an_audit_that_expects_nothing_says_nothing_of_it(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = recipe.parent / "plain.yaml"
    plain.write_text(RECIPE.replace("expect: {task/probability: higher}", "").replace("12}", "1}"))
    assert main(["audit", str(plain), "--out", str(recipe.parent / "plain")]) == 0
    said = capsys.readouterr().out
    assert "expect" not in said and re.search(r"task / probability: 0\.\d{3}  \[no interval\]  n = 1\n", said)


def perplexity(*levels: float) -> Report:
    """Before, after, ..."""
    noise = torch.linspace(-0.01, 0.01, 20)
    ids = tuple(f"i{i}" for i in range(20))
    runs = [Run("before", "before"), Run("after", "after")][: len(levels)]
    measured = {
        run.name: {0: [Scores("perplexity", level + noise, ids, "lower", "text", unit="nats/token", outputs=ids)]}
        for run, level in zip(runs, levels, strict=True)
    }
    matrix = Matrix("perplexity", ("before", "one"), ("text",), ((2.0,), (1.5,)), "lower")
    return build_report("text", measured, runs, expect={"text/perplexity": "lower"}, matrices=[matrix])


def test_a_figure_is_named_with_its_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = perplexity(2.0, 1.5)
    assert report.verdicts[0].sentence.startswith("text / perplexity (nats/token) fell from 2.00 to 1.50")
    _verdicts(report, tmp_path)
    assert "LEARNED    text / perplexity (nats/token) fell" in capsys.readouterr().out
    page = render(report)
    for part in re.findall(r"<h3>.*?</h3>|<caption>.*?</caption>|<span class=\"figure-of\">.*?</span></span>", page):
        assert "perplexity" not in part or "nats/token" in part, part
    assert "<p>Fell from 2.00 to 1.50" in page, "the heading says the figure already"
    earlier = report.verdicts[0].sentence.replace(" (nats/token)", "")
    old = Report(
        "old", "2026", (Verdict("after", "text", "perplexity", "lower", "learned", earlier),), scores=report.scores
    )
    assert "<p>Fell from 2.00 to 1.50" in render(old)


def test_a_small_p_is_text() -> None:
    scores = tuple(Score(run, "a", "b", 0.5, 0.4, 0.6, 9) for run in ("before", "after"))
    change = Change("after", "a", "b", 0.5, 0.4, 0.6, "McNemar", 1e-9, 1e-9, 1.0)
    runs = (Run("before", "before"), Run("after", "after"))
    page = render(Report("p", "2026", runs=runs, scores=scores, changes=(change,)))
    assert "&lt;\u00a00.001" in page and not re.search(r"<\s", page.partition("</main>")[0].partition("<main")[2])
