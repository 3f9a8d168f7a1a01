"""A report names the commit of the code that made it, and a run that went on with other code names both."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from palimpsest.recipe_source import parse_recipe
from palimpsest.report import Report

RUN = importlib.import_module("palimpsest.run")  # the package's ``run`` is the function
RECIPE = {
    "name": "measured",
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {"task": "rows.jsonl"},
    "audits": {"task": ["accuracy"]},
}


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, commit: str, *, fails: bool = False) -> Report:
    """One life of the run with the code of ``commit``; it may end in its audit."""
    (folder / "rows.jsonl").write_text(json.dumps({"inputs": [0.5] * 64, "label": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(RUN, "own_commit", lambda: commit)
        if fails:
            patch.setattr(RUN, "add_scores", lambda *_: 1 / 0)
        report: Report = RUN.run(parse_recipe(RECIPE, audit_only=True), folder / "out", folder=folder)
    return report


def test_the_commit_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made(tmp_path, monkeypatch, "abc").environment["commit"] == "abc"
    again = made(tmp_path, monkeypatch, "def")
    assert again.environment["commit"] == "abc", "a finished run is read back"


def test_the_commits_of_a_run_that_went_on_with_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            made(tmp_path, monkeypatch, "abc", fails=True)
    assert made(tmp_path, monkeypatch, "def-dirty").environment["commit"] == "abc, def-dirty"


def test_a_package_outside_a_checkout_has_a_version_and_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = made(tmp_path, monkeypatch, "unknown")
    assert "commit" not in report.environment and report.environment["palimpsest"]
