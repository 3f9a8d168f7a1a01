"""Other audits in a finished run's folder: nothing is trained again, and only what is new or changed is measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from palimpsest import Report
from palimpsest.audit import Trainable
from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.probability import Probability
from palimpsest.audits.relearning import Relearning
from palimpsest.checkpoint import write_text
from palimpsest.recipe import to_yaml
from palimpsest.recipe_source import parse_recipe

FEW, MORE = ({"relearning": {"audit": "perplexity", "steps": steps}} for steps in (1, 4))
OTHERS = [{"id": f"o{i}", "inputs": [i / 5] * 64, "label": i} for i in range(5)]
RENAMED = "or, where only audits read these rows, give the new ones a role of another name."


@pytest.fixture
def ran(digits: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished run with ``asked``, what is measured from here on; training again is an error."""
    digits.write("others.jsonl", OTHERS)
    digits.recipe["audits"] = {"forget": ["accuracy", FEW], "retain": ["accuracy"]}
    assert digits.run()[0] == 0
    digits.asked = []
    for kind in (Accuracy, Probability, Relearning):
        measure = kind.__call__

        def asked(self: Any, subject: Any, data: Any, role: str, measure: Any = measure) -> Any:
            if isinstance(subject, Trainable):  # not in the rehearsal, which has no model
                digits.asked.append(f"{role}/{type(self).__name__}")
            return measure(self, subject, data, role)

        monkeypatch.setattr(kind, "__call__", asked)
    monkeypatch.setattr("palimpsest.stage.fit", lambda *_, **__: pytest.fail("a stage was trained again"))
    return digits


def measured(folder: Path) -> list[Any]:
    """What a report says of its audits."""
    report = json.loads((folder / "report.json").read_text())
    return [report[k] for k in ("scores", "changes", "versus", "verdicts", "matrices", "recipe")]


def as_if_at_once(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of the folder is the one of a run that asked all of it from the start."""
    monkeypatch.undo()
    assert project.run(out="fresh")[0] == 0
    assert measured(project.folder / "out") == measured(project.folder / "fresh")
    kept, fresh = ((project.folder / out / "recipe.yaml").read_text() for out in ("out", "fresh"))
    assert kept == fresh


def test_only_a_new_audit_is_asked(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a role that is there, and of a new one; before, after, and of no model twice."""
    ran.recipe["roles"]["others"] = "others.jsonl"
    ran.recipe["audits"] = {"others": ["accuracy"], **ran.recipe["audits"], "retain": ["accuracy", "probability"]}
    status, err = ran.run()
    assert status == 0 and "out holds this run with other audits; what is trained is read back" in err
    assert ran.asked == ["others/Accuracy", "retain/Probability"] * 2
    as_if_at_once(ran, monkeypatch)


def test_a_changed_audit_is_asked_anew_and_the_others_are_not(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(ran.folder / "out")
    ran.recipe["audits"]["forget"] = ["accuracy", MORE]
    assert ran.run()[0] == 0 and ran.asked == ["forget/Relearning"] * 2
    ran.recipe["audits"]["forget"] = ["accuracy", FEW]  # what was measured with it is still there
    assert ran.run()[0] == 0 and len(ran.asked) == 2
    assert measured(ran.folder / "out") == first
    ran.recipe["audits"]["forget"] = ["accuracy", MORE]
    assert ran.run()[0] == 0 and len(ran.asked) == 2
    as_if_at_once(ran, monkeypatch)


def test_a_removed_audit_leaves_the_report(ran: Any) -> None:
    """And the page, and what ``compare`` reads; it comes back without being asked."""
    whole = measured(ran.folder / "out")
    ran.recipe["audits"] = {"forget": [FEW]}
    assert ran.run()[0] == 0 and not ran.asked
    report = Report.load(ran.folder / "out" / "report.json")
    assert {(s.role, s.audit) for s in report.scores} == {("forget", "relearning")}
    assert "accuracy" not in (ran.folder / "out" / "report.html").read_text(encoding="utf-8")
    shutil.copytree(ran.folder / "out", ran.folder / "copy")
    folders = (str(ran.folder / out) for out in ("out", "copy"))
    assert ran.call("compare", *folders, "--out", str(ran.folder / "compared"))[0] == 0
    compared = Report.load(ran.folder / "compared" / "report.json")
    assert {(s.role, s.audit) for s in compared.scores} == {("forget", "relearning")}
    ran.recipe["audits"] = {"forget": ["accuracy", FEW], "retain": ["accuracy"]}
    lines = sorted((ran.folder / "out").glob("seed-0/*/scores.jsonl"))
    kept = [file.read_bytes() for file in lines]
    assert ran.run()[0] == 0 and measured(ran.folder / "out") == whole
    assert [file.read_bytes() for file in lines] == kept


def test_a_role_that_only_audits_read_goes_with_them(ran: Any) -> None:
    """Its rows stay known: it cannot come back with others under the same name."""
    roles, audits = ran.recipe["roles"], ran.recipe["audits"]
    ran.recipe |= {"roles": {**roles, "others": "others.jsonl"}, "audits": {**audits, "others": ["accuracy"]}}
    assert ran.run()[0] == 0
    ran.recipe |= {"roles": roles, "audits": audits}
    assert ran.run()[0] == 0 and len(ran.asked) == 2
    ran.write("others.jsonl", OTHERS[:4])
    ran.recipe |= {"roles": {**roles, "others": "others.jsonl"}, "audits": {**audits, "others": ["accuracy"]}}
    said = ran.refused()
    assert "roles.others: its rows have changed since the run in" in said and said.endswith(RENAMED)
    ran.recipe["roles"]["fewer"] = ran.recipe["roles"].pop("others")
    ran.recipe["audits"]["fewer"] = ran.recipe["audits"].pop("others")
    assert ran.run()[0] == 0 and ran.asked[2:] == ["fewer/Accuracy"] * 2
    ran.recipe["roles"]["others"] = "others.jsonl"
    assert "roles.others: its rows have changed since the run in" in ran.refused()


def test_what_training_reads_is_still_another_run(ran: Any) -> None:
    """A role's other file, and what a stage watches."""
    ran.recipe["audits"]["forget"] = ["accuracy"]
    ran.recipe["stages"][0]["watch"] = {"every": 1, "audits": {"forget": ["accuracy"]}}
    assert "(stages.0.watch is not given there and {" in ran.refused()
    del ran.recipe["stages"][0]["watch"]
    ran.recipe["stages"][0]["objective"].append({"on": "retain", "uniform": {}})
    assert "(stages.0.objective.2 is not given there and {'on': 'retain', 'uniform': {}" in ran.refused()
    ran.recipe["stages"][0]["objective"].pop()
    ran.recipe["roles"]["retain"] = "others.jsonl"
    said = ran.refused()
    assert "(roles.retain is 'kept.jsonl' there and 'others.jsonl' here); choose another" in said
    assert said.endswith(f"with --out, delete it, {RENAMED}")


def test_a_mistake_in_a_new_audit_leaves_the_folder_as_it_was(ran: Any) -> None:
    """Its rows lack a column; mended, under the same name, they are measured."""
    out = ran.folder / "out"
    kept = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    ran.write("others.jsonl", [{"id": "o", "inputs": [0.5] * 64}])
    ran.recipe["roles"]["others"] = "others.jsonl"
    ran.recipe["audits"]["others"] = ["accuracy"]
    assert "audits.others.accuracy: accuracy: the others row 'o' has no label" in ran.refused()
    ran.write("others.jsonl", [{"id": "o", "inputs": [0.5] * 64, "label": 10}])
    status, err = ran.run()  # which only the loaded model can tell
    assert status == 2 and "the label 10 lies outside 0..9" in err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == kept
    ran.write("others.jsonl", OTHERS)
    assert ran.run()[0] == 0 and ran.asked == ["others/Accuracy"] * 2


def test_lines_that_do_not_say_how_they_were_measured(ran: Any) -> None:
    """Of a folder from before they did: the report stands, and whoever asks further asks all of it."""
    out = ran.folder / "out"
    shutil.copytree(out, ran.folder / "copy")
    for file in out.glob("seed-0/*/scores.jsonl"):
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        write_text(file, "".join(json.dumps({k: v for k, v in e.items() if k != "spec"}) + "\n" for e in entries))
    assert ran.call("compare", str(out), str(ran.folder / "copy"), "--out", str(ran.folder / "compared"))[0] == 0
    assert len(Report.load(ran.folder / "compared" / "report.json").scores) == 3 * 3
    ran.recipe["audits"]["forget"] = ["accuracy", MORE]
    assert ran.run()[0] == 0
    assert ran.asked == ["forget/Accuracy", "forget/Relearning", "retain/Accuracy"] * 2


def test_two_long_values_are_shown_where_they_part(ran: Any) -> None:
    """Of what a stage watches, the audit that is another one; of a long text, its end."""
    watched = [{"task_accuracy": {}}, "accuracy", "probability"]
    ran.recipe["stages"][0]["watch"] = {"every": 1, "audits": {"forget": watched}}
    ran.recipe["roles"]["long"] = ran.write(f"{'x' * 70}-1.jsonl", OTHERS).name
    kept = ran.folder / "out" / "recipe.yaml"
    kept.write_text(to_yaml(parse_recipe(ran.recipe)))
    watched.insert(1, "loss_attack")
    assert "(stages.0.watch.audits.forget.1 is 'accuracy' there and 'loss_attack' here)" in ran.refused()
    watched[1:] = ["accuracy"]
    assert "(stages.0.watch.audits.forget.2 is 'probability' there and not given here)" in ran.refused()
    watched.append("probability")
    ran.recipe["roles"]["long"] = ran.write(f"{'x' * 70}-2.jsonl", OTHERS).name
    assert "(roles.long is '…xxxxxxxxx-1.jsonl' there and '…xxxxxxxxx-2.jsonl' here)" in ran.refused()


def test_a_key_that_came_later_makes_no_other_recipe(ran: Any) -> None:
    """Its default is what the run was made with."""
    kept = ran.folder / "out" / "recipe.yaml"
    written = kept.read_text()
    kept.write_text(written.replace("  end_of_text: false\n", "").replace("  packed: false\n", ""))
    assert kept.read_text() != written
    status, said = ran.run()
    assert (status, ran.asked, kept.read_text()) == (0, [], written), said
