"""The command line: frozen flags, one-sentence failures, and a whole run."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import palimpsest
from palimpsest import CausalLM, zoo
from palimpsest.audits.probability import Probability
from palimpsest.cli import main, parser
from palimpsest.loop import Progress
from palimpsest.report import Change, Report
from palimpsest.run_folder import read_scores
from palimpsest.verbs import Console, _verdicts

FLAGS = {
    "run": {"recipe", "--out", "--set", "--allow-imports", "--strict"},
    "audit": {"recipe", "--out", "--set", "--allow-imports"},
    "compare": {"folders", "--out"},
    "fit": {"table", "--law", "--predict"},
    "verify": {"paper", "--budget", "--seeds", "--out"},
    "list": {"words"},
    "new": {"noun", "name"},
}

RECIPE = """
name: tiny
model: {pretrained: tiny-llama}
roles:
  forget: {zoo: authors, part: forget, people: 4, facts: 2, forget: 1}
  retain: {zoo: authors, part: retain, people: 4, facts: 2, forget: 1}
objective: [{on: forget, npo: {beta: 0.1}}, {on: retain, cross_entropy: {}}]
train: {steps: 2, batch: 2, lr: 1e-3}
audits: {forget: [probability], retain: [probability]}
baselines: [do_nothing, gradient_ascent]
expect: {forget/probability: lower}
"""


def test_the_flags_are_frozen() -> None:
    (verbs,) = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    found = {
        name: {action.option_strings[-1] if action.option_strings else action.dest for action in verb._actions}
        - {"--help"}
        for name, verb in verbs.choices.items()
    }
    assert found == FLAGS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "a")]) == 0
    return folder


def test_a_run_leaves_a_report_and_runs_again_from_its_resolved_recipe(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((finished / "a/report.json").read_text())
    assert {run["name"] for run in report["runs"]} == {"before", "after", "do_nothing", "gradient_ascent"}
    assert (finished / "a/report.html").read_text().startswith("<!DOCTYPE html>")
    assert main(["run", str(finished / "a/recipe.yaml"), "--out", str(finished / "b")]) == 0
    assert "forget / probability" in capsys.readouterr().out
    assert json.loads((finished / "b/report.json").read_text())["scores"] == report["scores"]


def test_a_finished_run_is_not_done_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((finished / "a/report.json").read_text())["scores"]
    assert main(["run", str(finished / "tiny.yaml"), "--out", str(finished / "a")]) == 0
    assert "step 1/2" not in capsys.readouterr().err
    assert json.loads((finished / "a/report.json").read_text())["scores"] == before


def test_transformers_alone_loads_what_a_run_trained(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the last bit: the log-probability of every item is the one that the run reports."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["run", str(finished / "tiny.yaml"), "--out", str(finished / "a")]) == 0
    folder = (finished / "a/seed-0/after/0-train").resolve()
    assert f"Model:  {folder}\n" in capsys.readouterr().out
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = zoo.load({"zoo": "authors", "part": "retain", "people": 4, "facts": 2, "forget": 1})
    own = Probability()(CausalLM(tokenizer).subject(model.eval()), {"retain": rows}, "retain")
    (kept,) = [s for s in read_scores(finished / "a/seed-0/after/scores.jsonl") if s.role == "retain"]
    assert own.ids == kept.ids and torch.equal(own.items, kept.items)
    (before,) = [s for s in read_scores(finished / "a/seed-0/before/scores.jsonl") if s.role == "retain"]
    assert not torch.equal(own.items, before.items)


def test_a_run_goes_on_from_the_model_of_another(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And who names the run folder itself is told which folder in it is the model."""
    command = ["audit", str(finished / "tiny.yaml"), "--out", str(finished / "e"), "--set"]
    assert main([*command, f"model.pretrained={finished / 'a'}"]) == 2
    folder = finished / "a/seed-0/after/0-train"
    assert f"the model of this run is {folder}." in capsys.readouterr().err
    assert main([*command, f"model.pretrained={folder}"]) == 0
    audited, run = (json.loads((finished / name / "report.json").read_text())["scores"] for name in ("e", "a"))
    after = {(s["role"], s["audit"]): s["value"] for s in run if s["run"] == "after"}
    assert {(s["role"], s["audit"]): s["value"] for s in audited} == after


def test_compare_pairs_by_item_and_refuses_other_items(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = finished / "c"
    override = ["--set", "objective.0.npo.beta=1.0"]
    assert main(["run", str(finished / "tiny.yaml"), "--out", str(other), *override]) == 0
    capsys.readouterr()
    assert main(["compare", str(finished / "a"), str(other), "--out", str(finished / "compare")]) == 0
    page = (finished / "compare/report.html").read_text()
    assert "forget / probability (lower is better)" in page and "2 runs held against 1" in page
    report = json.loads((finished / "compare/report.json").read_text())
    assert [(v["run"], v["expect"]) for v in report["verdicts"]] == [("a", "lower"), ("c", "lower")]
    alone = {name: json.loads((finished / name / "report.json").read_text())["verdicts"] for name in ("a", "c")}
    assert [v["verdict"] for v in report["verdicts"]] == [alone[name][0]["verdict"] for name in ("a", "c")]
    (difference,) = [v for v in report["versus"] if (v["run"], v["role"]) == ("c", "forget")]
    values = {s["run"]: s["value"] for s in report["scores"] if s["role"] == "forget"}
    assert difference["reference"] == "a" and difference["value"] == pytest.approx(values["c"] - values["a"])
    assert f"c minus a: forget / probability {difference['value']:+.3f}" in capsys.readouterr().out
    override = ["--set", "expect.forget/probability={at most: 0.5}"]
    assert main(["run", str(finished / "tiny.yaml"), "--out", str(finished / "f"), *override]) == 0
    assert main(["compare", str(finished / "a"), str(finished / "f"), "--out", str(finished / "compare")]) == 0
    assert not json.loads((finished / "compare/report.json").read_text())["verdicts"], "each expects something else"
    fewer = ["--set", "roles.forget.facts=1", "--set", "roles.retain.facts=1"]
    assert main(["run", str(finished / "tiny.yaml"), "--out", str(finished / "d"), *fewer]) == 0
    capsys.readouterr()
    assert main(["compare", str(finished / "a"), str(finished / "d"), "--out", str(finished / "compare")]) == 2
    assert "cannot be paired" in capsys.readouterr().err


def test_audit_measures_without_training(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(finished / "tiny.yaml"), "--out", str(finished / "audit")]) == 0
    assert "retain / probability: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("objective.0.npo.bta=1", "npo has no field 'bta'; it has: beta, reduction"),
        ("objective.0.npo.beta=-1", "beta must be above 0"),
        ("train.lr=fast", "train.lr"),
        ("audits.forget=[perplexty]", "did you mean 'perplexity'"),
        ("model.pretrained=tiny-lama", "tiny-llama"),
        ("roles.forget.zoo=author", "did you mean 'authors'"),
        ("expect={forget/rouge: lower}", "nothing measures this"),
        ("baselines=[retrain]", "retrain"),
        ("train.batch=0", "batch must be above 0"),
        ("train.steps=null", "either epochs or steps"),
    ],
)
def test_bad_values_end_with_one_sentence(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    assert main(["run", str(finished / "tiny.yaml"), "--out", str(tmp_path / "out"), "--set", change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error and error.startswith("palimpsest run: ") and error.endswith((".", "?"))
    assert "Traceback" not in error


def test_another_recipes_folder_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(finished / "tiny.yaml"), "--out", str(finished / "a"), "--set", "train.lr=1e-4"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_a_class_beside_the_recipe_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From any working directory, with ``--allow-imports``; its folder comes last, so that it hides no other module."""
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "own_loss_beside.py").write_text(
        "from palimpsest.objectives.cross_entropy import CrossEntropy\nclass Mine(CrossEntropy): ...\n"
    )
    recipe = RECIPE.replace("cross_entropy: {}", '"own_loss_beside:Mine": {}').replace("retain: {zoo", "gone: {zoo")
    (tmp_path / "own.yaml").write_text(recipe)
    command = ["run", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "out")]
    assert main(command) == 2 and "only with --allow-imports" in capsys.readouterr().err
    assert main([*command, "--allow-imports"]) == 2
    assert "has no data" in capsys.readouterr().err, "the class was found, which is checked before the role"
    assert sys.path[-1] == str(tmp_path)


def test_where_nothing_is_expected_the_changes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = Change("after", "test", "accuracy", 0.5, 0.4, 0.6, "McNemar", 0.001, 0.001, 1.2)
    _verdicts(Report("unasked", "2026-01-01", changes=(change,)), tmp_path)
    assert "after: test / accuracy +0.500  [+0.400, +0.600]\n" in capsys.readouterr().out


def test_list_finds_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "objectives", "unlearning"]) == 0
    shown = capsys.readouterr().out
    assert "npo" in shown and "cross_entropy" not in shown
    assert main(["list", "nothingofthekind"]) == 1


def test_list_shows_the_fields_of_a_method_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> list[str]:
        assert main(["list", *words]) == 0
        return [line.strip() for line in capsys.readouterr().out.splitlines()]

    assert {"beta: float = 0.1", "reduction: Literal['sum', 'mean'] = 'sum'"} <= set(shown("npo"))
    assert "rank: int = 128" in shown("optim", "galore")  # whose fields are an optimizer's arguments
    assert "count: Count = words" in shown("junk")
    assert not any(" = " in line for line in shown("objectives", "unlearning"))


def test_importing_is_cheap_and_leaves_transformers_alone() -> None:
    code = (
        "import time, torch, sys; start = time.process_time(); import palimpsest; palimpsest.NPO; palimpsest.evaluate;"
        "print(time.process_time() - start, *[m for m in sys.argv[1:] if m in sys.modules])"
    )
    heavy = ("transformers", "peft", "sklearn", "scipy", "datasets")
    runs = [
        subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
        for _ in range(2)  # the first may still have to compile
    ]
    found = [run.stdout.split() for run in runs]
    assert all(len(words) == 1 for words in found), found
    assert min(float(words[0]) for words in found) < 0.3


def test_the_public_names_are_written_where_type_checkers_read_them() -> None:
    """What is imported for them, what is resolved when it is used, and ``__all__`` are one list."""
    tree = ast.parse(Path(palimpsest.__file__).read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    imported = [alias.name for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names]
    (written,) = [
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    ]
    assert sorted(imported) == sorted(written) == sorted(palimpsest._HOME)
    assert all(getattr(palimpsest, name) is not None for name in written)


def test_every_line_of_progress_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may fall between two writes; a line without its end would swallow the sentence that says what to do."""
    written: list[str] = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=written.append, flush=lambda: None, isatty=lambda: False))
    console = Console()
    console.part(1, 2, "before: first")
    console.progress("first", Progress(1, 8, {"authors/cross_entropy": 6.2}, 0.1))
    console.note("A sentence.")
    assert len(written) == 3 and all(text.endswith("\n") for text in written)


PUBLIC = """
import importlib, types
import palimpsest as package
named = {name: importlib.import_module(f"palimpsest.{home}") for name, home in package._HOME.items()}
for name, home in named.items():
    for _ in range(2):
        found = {}
        exec(f"from palimpsest import {name}", found)
        assert found[name] is getattr(home, name) is getattr(package, name), name
        assert not isinstance(found[name], types.ModuleType), name
"""
TWICE = """
from palimpsest import run, compare
from palimpsest import run as again, compare as too
assert run is again and compare is too
import palimpsest.run, palimpsest.compare
from palimpsest.run import run as own
from palimpsest import run as still
assert own is run is still is palimpsest.run and palimpsest.compare is compare and callable(run) and callable(compare)
"""


@pytest.mark.parametrize("program", [PUBLIC, TWICE])
def test_public_names_are_never_the_modules_that_are_called_like_them(program: str) -> None:
    """In a fresh process, and whatever is imported first."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
