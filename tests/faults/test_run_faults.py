"""A run that ends early loses nothing that was finished, says one sentence, and ends as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest import Report, checkpoint, run_folder
from palimpsest.yaml_text import dump

SCRIPT = Path(__file__).with_name("lives.py")
RECIPE = {
    "name": "lives",
    "roles": {
        "forget": {"zoo": "authors", "part": "forget", "people": 4, "facts": 2, "forget": 1},
        "retain": {"zoo": "authors", "part": "retain", "people": 4, "facts": 2, "forget": 1},
        "authors": ["forget", "retain"],
    },
    "stages": [
        {
            "name": "first",
            "objective": [{"on": "authors", "cross_entropy": {}}],
            "train": {"steps": 8, "batch": 2, "lr": 3e-3, "checkpoint_every": 2},
        },
        {
            "name": "second",
            "lora": {"rank": 2, "dropout": 0.1},
            "reference": "adapter_off",
            "objective": [{"on": "forget", "npo": {}}, {"on": "retain", "cross_entropy": {}}],
            "train": {"steps": 6, "batch": 2, "lr": 1e-2, "checkpoint_every": 2},
        },
    ],
    "audits": {"forget": ["probability", {"rouge": {"max_new_tokens": 4}}, "truth_ratio"], "retain": ["probability"]},
    "baselines": ["do_nothing", "retrain"],
    "expect": {"forget/probability": "nearer retrained"},
}


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of ``lives.py`` and what it found."""
    folder = tmp_path_factory.mktemp("lives")
    recipe = {**RECIPE, "model": {"pretrained": str(tiny), "max_length": 128}}
    (folder / "recipe.yaml").write_text(dump(recipe))
    command = [sys.executable, str(SCRIPT), str(folder / "recipe.yaml"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert made.returncode == 0, made.stderr[-4000:]
    return folder, json.loads((folder / "lives.json").read_text())


def figures(folder: Path) -> dict[str, Any]:
    """All that a report measured, apart from times and memory."""
    report = json.loads((folder / "report.json").read_text())
    found = {k: report[k] for k in ("scores", "changes", "versus", "verdicts", "items", "curves", "recipe", "seeds")}
    return {**found, "runs": [(r["name"], r["steps"], r["tokens"], r["trainable_parameters"]) for r in report["runs"]]}


def sentence(said: str) -> str:
    """The one line that is no progress."""
    lines = [x for x in said.splitlines() if x.strip() and not x.startswith(("[", "    ", "Loading"))]
    assert len(lines) == 1 and "Traceback" not in said, said
    assert lines[0].endswith("."), said
    return lines[0]


def test_a_run_killed_six_times_ends_with_the_same_report(lives: tuple[Path, dict[str, Any]]) -> None:
    folder, found = lives
    assert found["whole"]["status"] == found["killed"]["status"] == 0
    assert found["kills"] == [-signal.SIGKILL] * 6
    assert figures(folder / "killed") == figures(folder / "whole")
    left = [p for p in folder.glob("killed/**/*") if p.name.startswith((".", "step-"))]
    assert not left  # neither half-written files nor checkpoints of finished stages


def test_ctrl_c_in_training_and_in_audits(lives: tuple[Path, dict[str, Any]]) -> None:
    """Both end with one sentence and 130; the same command then goes on, and the report is the uninterrupted one."""
    folder, found = lives
    assert found["in training"]["status"] == found["in audits"]["status"] == 130
    said = sentence(found["in training"]["said"])
    assert "Stopped by you after step" in said and "run the same command again to go on from" in said
    assert "what was finished is kept" in sentence(found["in audits"]["said"])
    assert found["interrupted"]["status"] == 0
    assert "first" not in [x for x in found["interrupted"]["said"].splitlines() if "step" in x]
    assert figures(folder / "interrupted") == figures(folder / "whole")


def test_a_full_disk(lives: tuple[Path, dict[str, Any]]) -> None:
    """The system refuses files above 20 kB in training; later it refuses the report of a run that is done."""
    folder, found = lives
    assert found["full"]["status"] == 2
    said = sentence(found["full"]["said"])
    assert "could not be written" in said and "free some space or choose another folder." in said
    assert found["filled"]["status"] == 0 and figures(folder / "full") == figures(folder / "whole")
    assert found["full at the report"]["status"] == 2
    assert "report.json could not be written" in sentence(found["full at the report"]["said"])
    assert len(list((folder / "kept").glob("seed-0/*/scores.jsonl"))) == 3  # before, after, retrained
    assert not (folder / "kept" / "report.json").exists()
    assert found["reported"]["status"] == 0 and figures(folder / "reported") == figures(folder / "whole")
    assert "step" not in found["reported"]["said"]  # nothing was trained again


def test_a_finished_run_is_not_run_again(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digits.run()[0] == 0
    out = digits.folder / "out"
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["palimpsest.run"], "_Work", None)  # which loads models, trains and measures
        status, err = digits.run()
    assert status == 0
    assert "holds the finished run of this recipe; its report is read back." in err and "step" not in err
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()} == before
    (out / "report.html").unlink()  # as if the run had been killed just before its last file
    assert digits.run()[0] == 0 and (out / "report.html").read_bytes() == before[out / "report.html"][0]


def test_another_expectation_is_judged_without_running_again(digits: Any) -> None:
    assert digits.run()[0] == 0
    out = digits.folder / "out"
    first, items = Report.load(out / "report.json"), (out / "seed-0/after/scores.jsonl").read_bytes()
    digits.recipe |= {"title": "Another", "expect": {"forget/accuracy": {"at most": -1.0}}}
    status, err = digits.run()
    assert status == 0 and "step" not in err
    again = Report.load(out / "report.json")
    assert again.name == "Another" != first.name and "Another" in (out / "report.html").read_text(encoding="utf-8")
    assert [v.verdict for v in again.verdicts] != [v.verdict for v in first.verdicts]
    assert [replace(s, better="") for s in again.scores] == [replace(s, better="") for s in first.scores]
    assert (out / "seed-0/after/scores.jsonl").read_bytes() == items


def test_a_report_stays_where_its_run_cannot_be_judged_anew(digits: Any) -> None:
    """The data have changed as well: what was found with the old ones is not thrown away for that."""
    assert digits.run()[0] == 0
    kept = (digits.folder / "out" / "report.json").read_bytes()
    digits.recipe |= {"expect": {"forget/accuracy": {"at most": -1.0}}}
    digits.write("digits.jsonl", [{"id": "other", "inputs": [0.5] * 64, "label": 1}])
    assert "roles.forget: its rows have changed since the run in" in digits.refused()
    assert (digits.folder / "out" / "report.json").read_bytes() == kept


def test_the_folder_of_another_recipe_is_refused(digits: Any) -> None:
    assert digits.run()[0] == 0
    kept = (digits.folder / "out" / "report.json").read_bytes()
    remedy = "; choose another folder with --out, or delete it."
    last = digits.recipe["stages"][0]["objective"].pop()
    said = digits.refused()
    assert "out holds a run of another recipe (stages.0.objective.1 is {" in said and f"not given here){remedy}" in said
    digits.recipe["stages"][0]["objective"].append(last)
    rate = digits.recipe["stages"][0]["train"].pop("lr")
    digits.recipe["stages"][0]["train"]["lr"] = rate / 2
    assert f"(stages.0.train.lr is {rate} there and {rate / 2} here){remedy}" in digits.refused()
    digits.recipe["stages"][0]["train"] |= {"lr": rate, "clip": None}  # no clipping is not the default of clipping
    assert f"(stages.0.train.clip is not given there and null here){remedy}" in digits.refused()
    del digits.recipe["stages"][0]["train"]["clip"]
    digits.write("digits.jsonl", [{"id": "other", "inputs": [0.5] * 64, "label": 1}])
    assert "roles.forget: its rows have changed since the run in" in digits.refused()
    assert (digits.folder / "out" / "report.json").read_bytes() == kept
    (digits.folder / "full").mkdir()
    (digits.folder / "full" / "thesis.txt").write_text("all of it")
    assert "full is not empty and holds no run; choose another folder with --out." in digits.refused(out="full")
    assert (digits.folder / "full" / "thesis.txt").read_text() == "all of it"
    assert "is a file; choose another folder with --out." in digits.refused(out="recipe.yaml")


def test_a_folder_that_cannot_be_written(digits: Any) -> None:
    """Below a file, and where the system knows no new files: before anything is loaded."""
    assert "out could not be written (Not a directory); choose another folder with --out." in digits.refused(
        out="recipe.yaml/out"
    )
    said = digits.refused(out="/proc/nowhere")
    assert "/proc/nowhere/recipe.yaml could not be written" in said


@pytest.mark.parametrize("name", ["outcome.json", "model.safetensors", "data.json", "report.html"])
def test_a_write_that_fails_anywhere(digits: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each kind of file once; the same command then goes on to the same figures."""
    assert digits.run(out="whole")[0] == 0
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    said = digits.refused()
    assert f"{name} could not be written (Permission denied); free some space or choose another folder." in said
    monkeypatch.setattr(os, "replace", replace)
    assert digits.run()[0] == 0
    assert figures(digits.folder / "out") == figures(digits.folder / "whole")


def test_scores_that_cannot_be_added(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, and what was measured before stays; a line that was begun is neither read nor in the way."""
    assert digits.run(out="whole")[0] == 0
    fsync, asked = os.fsync, []

    def refuse(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name == "scores.jsonl":
            asked.append(descriptor)
            if len(asked) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    said = digits.refused()
    assert "scores.jsonl could not be written (No space left on device); free some space or choose another" in said
    monkeypatch.setattr(os, "fsync", fsync)
    file = digits.folder / "out" / "seed-0" / "before" / "scores.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:20])
    assert len(run_folder.read_scores(file)) == 1
    assert digits.run()[0] == 0
    assert figures(digits.folder / "out") == figures(digits.folder / "whole")
    assert file.read_bytes() == first + second


def test_a_model_that_could_not_be_written_is_not_trained(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an hour of training would end with its tokenizer's error; what is only measured need not be written."""

    def fails(*_: object, **__: object) -> None:
        raise errors[-1]

    errors: list[Exception] = [NotImplementedError("this tokenizer has no vocabulary file.")]

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", fails)
    monkeypatch.setattr("palimpsest.stage.fit", lambda *_, **__: pytest.fail("it was trained"))
    said = project.refused()
    assert "model.pretrained: no trained model could be written, since the config or the tokenizer of this one" in said
    assert "(NotImplementedError: this tokenizer has no vocabulary file); name a model that save_pretrained" in said
    errors.append(FileNotFoundError(errno.ENOENT, "No such file or directory", "vocab.json"))
    assert "(FileNotFoundError: " in project.refused()
    for full in (OSError(errno.ENOSPC, "No space left on device"), Exception("No space left on device (os error 28)")):
        errors.append(full)
        with pytest.raises(pytest.fail.Exception, match="it was trained"):  # of the temporary folder, not of the run's
            project.run()
    del project.recipe["stages"], project.recipe["baselines"], project.recipe["expect"]
    assert project.run(verb="audit", out="audited")[0] == 0


@pytest.mark.parametrize(("place", "value"), [("lr", 1e30), ("weight", 1e38)])
def test_a_loss_that_is_not_finite(project: Any, place: str, value: float) -> None:
    """The run stops with 1, names the term and the step, and keeps the stage that was finished and the last state."""
    stage = project.recipe["stages"][0]
    teach = {**stage, "name": "teach", "objective": [{"on": "retain", "cross_entropy": {}}]}
    bad = {**stage, "train": {**stage["train"], "steps": 6}}
    if place == "lr":
        bad["train"]["lr"] = value
    else:
        bad["objective"] = [{"on": "retain", "cross_entropy": {}, "weight": value}]
        bad["objective"] += [{**bad["objective"][0]}]
    project.recipe["stages"] = [teach, bad]
    said = project.refused(status=1)
    assert ("Training stopped at step" in said and "retain/cross_entropy" in said) or "forget/gradient_ascent" in said
    assert "Lower train.lr or the term's weight; the weights of step" in said and "are kept in" in said
    home = project.folder / "out" / "seed-0"
    assert (home / "before" / "0-teach" / "outcome.json").exists()
    assert len(list(home.glob("after/0-forgetting/step-*"))) == 1
    assert not (home / "after" / "0-forgetting" / "outcome.json").exists()
    assert "Training stopped at step" in project.refused(status=1)  # again, and again without losing anything


def test_what_was_audited_is_not_asked_again(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between two audits of one model goes on with the second."""
    from palimpsest.audit import Trainable
    from palimpsest.audits.probability import Probability

    asked: list[str] = []
    original = Probability.__call__

    def counting(self: Probability, subject: Any, data: Any, role: str) -> Any:
        rehearsed = not isinstance(subject, Trainable)  # it has no model
        if rehearsed:
            return original(self, subject, data, role)
        asked.append(role)
        if asked == ["forget", "holdout"]:
            raise KeyboardInterrupt
        return original(self, subject, data, role)

    monkeypatch.setattr(Probability, "__call__", counting)
    assert project.run()[0] == 130
    assert project.run()[0] == 0
    assert asked == ["forget", "holdout", "holdout", "forget", "holdout"]


def test_compare(digits: Any) -> None:
    """Differing ids, one folder, the same folder twice, an unfinished one, and one that a run lies in."""
    folder = digits.folder
    out = str(folder / "compared")

    def said(*folders: str, out: str = out) -> str:
        status, err = digits.call("compare", *(str(folder / f) for f in folders), "--out", out)
        assert (status, len(err.splitlines())) == (2, 1) and err.endswith(".\n") and "Traceback" not in err, err
        return str(err)

    for name, seeds in (("first", [0]), ("second", [0]), ("seeded", [1])):
        digits.recipe["seeds"] = seeds
        digits.recipe["stages"][0]["train"]["lr"] = 1e-3 if name == "first" else 2e-3
        assert digits.run(out=name)[0] == 0
    digits.recipe["seeds"] = [0]
    digits.write("digits.jsonl", [{"id": f"x{i}", "inputs": [i / 8] * 64, "label": 2} for i in range(12)])
    assert digits.run(out="others")[0] == 0
    assert "compare needs at least two run folders; name another one." in said("first")
    assert "first is named twice; compare different run folders." in said("first", "first")
    assert "nothing holds no finished run; finish it with palimpsest run, or name another" in said("first", "nothing")
    assert "forget/accuracy: the item 'd0' stands in only one of" in said("first", "others")
    assert "first ran the seeds [0] and seeded [1]; compare runs of the same seeds." in said("first", "seeded")
    (folder / "second" / "report.json").rename(folder / "second" / "hidden")
    assert "second holds no finished run" in said("first", "second")
    (folder / "second" / "hidden").rename(folder / "second" / "report.json")
    kept = (folder / "first" / "report.json").read_bytes()
    assert "first holds a run, whose report would be lost" in said("first", "second", out=str(folder / "first"))
    assert (folder / "first" / "report.json").read_bytes() == kept
    assert digits.run(verb="audit", out="audited")[0] == 0
    assert "audited has no model before and after a last stage" in said("first", "audited")
    (folder / "second" / "seed-0" / "after" / "scores.jsonl").write_text("[{\n")
    assert "scores.jsonl cannot be read" in said("first", "second")


def test_scores_are_read_back_to_the_last_bit(tmp_path: Path) -> None:
    import math

    import torch

    from palimpsest.audit import Scores

    values = torch.tensor([0.1, 1 / 3, 2e-300, -0.0], dtype=torch.float64)
    scores = Scores(
        "a",
        values,
        ("w", "x", "y", "z"),
        "lower",
        "r",
        "auc",
        "ks",
        torch.tensor([0, 1, 0, 1]),
        ("", "é", "\u2028", "b"),
    )
    extra = {"one": 0.1, "none": math.nan}
    for name in ("a", "ab"):
        run_folder.add_scores(tmp_path / "s", Scores(**{**vars(scores), "extra": extra, "name": name}))
    assert [s.name for s in run_folder.read_scores(tmp_path / "s")] == ["a", "ab"]
    (found,) = run_folder.read_scores(tmp_path / "s", "a")
    assert torch.equal(found.items, values) and torch.signbit(found.items[3])
    assert found.groups is not None and found.groups.tolist() == [0, 1, 0, 1]
    assert (found.name, found.ids, found.better, found.role) == ("a", scores.ids, "lower", "r")
    assert (found.statistic, found.versus, found.outputs) == ("auc", "ks", scores.outputs)
    assert found.extra["one"] == 0.1 and math.isnan(found.extra["none"])


def test_what_a_killed_process_had_begun_to_write_goes(digits: Any) -> None:
    """A half-written file in the run folder is not in the way, and one of a stage is removed."""
    out = digits.folder / "out"
    checkpoint.write_text(out / ".recipe.yaml.1.tmp", "half")
    stage = out / "seed-0" / "after" / "0-forgetting"
    stage.mkdir(parents=True)
    (stage / ".model.safetensors.1.tmp").write_bytes(b"half")
    (stage / ".step-00000002.1.tmp").mkdir()
    checkpoint.write_text(
        out / "recipe.yaml", (digits.run(out="other"), (digits.folder / "other" / "recipe.yaml"))[1].read_text()
    )
    status, err = digits.run()
    assert status == 0, err
    assert not [p for p in stage.iterdir() if p.name.startswith(".")]
    (stage / "step-00000002").mkdir()  # the stage was finished, and its checkpoint not yet deleted
    (out / "report.json").unlink()
    assert digits.run()[0] == 0 and not list(stage.glob("step-*"))
    assert figures(out) == figures(digits.folder / "other")
