"""Every mistake in the data ends with one sentence that names role and row, and what is no mistake goes through."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

Rows = list[object]
GOOD: Rows = [{"prompt": "Who?", "completion": " I."}, {"prompt": "You?", "completion": " No."}]
DATA: list[tuple[str, str | Rows, str]] = [
    ("empty file", "", r"roles\.forget: .*forget\.jsonl holds no rows; write some into it, or name another file\."),
    ("blank lines", "\n \n", r"roles\.forget: .*forget\.jsonl holds no rows"),
    (
        "broken line",
        '{"prompt": "a", "completion": "b"}\n\n{"prompt": \n',
        r"forget\.jsonl line 3: this is not JSON \(",
    ),
    ("a list as a line", '{"text": "a b c"}\n[1]\n', r"forget\.jsonl line 2: a row is an object .* not '\[1\]'\."),
    ("not UTF-8", b"\xff\xfe{}".decode("latin-1"), r"forget\.jsonl is not UTF-8 text \(byte 0\); save it as UTF-8\."),
    ("deep", "[" * 5000, r"forget\.jsonl line 1: this is not JSON \("),
    ("digits without end", '{"a": ' + "9" * 5000 + "}", r"forget\.jsonl line 1: this is not JSON \(it holds a number"),
    ("other columns", [{"question": "a"}], r"roles\.forget: forget row 1 has the columns \['question'\]; a language"),
    ("no completion", [*GOOD, {"prompt": "a"}], r"forget row 3 has a prompt but no completion; add the column"),
    (
        "empty completion",
        [*GOOD, {"prompt": "a", "completion": " "}],
        r"forget row 3: the completion is empty, so noth",
    ),
    ("nothing scored", [{"text": "a"}], r"forget row 1: no token is left to be scored; give the completion some text"),
    ("empty text", [{"text": ""}], r"forget row 1: text is empty; give it words or leave the row out\."),
    ("too long", [{"prompt": "a " * 90, "completion": "b"}], r"forget row 1 has \d+ tokens, but max_length is 64;"),
    (
        "ids twice",
        [{"id": 1, "text": "a b"}, {"id": 1, "text": "c d"}],
        r"roles\.forget: the rows 1 and 2 have the same",
    ),
    (
        "messages",
        [{"messages": [{"role": "user", "content": "a"}]}],
        r"forget row 1: messages must end with the assist",
    ),
]


@pytest.mark.parametrize(("content", "says"), [d[1:] for d in DATA], ids=[d[0] for d in DATA])
def test_a_mistake_in_the_data(project: Any, content: str | Rows, says: str) -> None:
    """The run goes through once the file is corrected: a folder in which nothing was finished is not in the way."""
    file = project.folder / "forget.jsonl"
    good = file.read_text()
    if isinstance(content, str):
        file.write_bytes(content.encode("latin-1"))
    else:
        project.write("forget.jsonl", content)
    said = project.refused()
    assert re.search(says, said), said
    assert not list(project.folder.glob("out/seed-*/**/*.json"))
    if "3: the completion" in said:
        file.write_text(good)
        assert project.run()[0] == 0


def test_wrong_column_names(project: Any) -> None:
    project.recipe["roles"]["forget"] = {"file": "forget.jsonl", "columns": {"prompt": "question"}}
    assert "forget.jsonl row 1 has no column 'question'; it has: id, prompt, completion." in project.refused()
    project.recipe["roles"]["forget"] = {"file": "forget.jsonl"}  # another recipe, but nothing was finished
    assert project.run()[0] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,completion\na,b\nc\n", r"rows\.csv line 3: 1 cells for 2 columns; correct the line"),
        ("prompt,completion\na,b,c\n", r"rows\.csv line 2: 3 cells for 2 columns"),
        ("prompt,prompt\na,b\n", r"rows\.csv line 1: two columns are called 'prompt'; rename one\."),
        ('prompt,completion\n"a,b\nc,d\n', r"rows\.csv line 3: this is not CSV \(unexpected end of data\)"),
        ("", r"rows\.csv holds no rows"),
    ],
)
def test_broken_tables(project: Any, text: str, says: str) -> None:
    (project.folder / "rows.csv").write_text(text)
    project.recipe["roles"]["forget"] = "rows.csv"
    said = project.refused()
    assert re.search(says, said), said


def test_a_file_that_is_no_parquet(project: Any) -> None:
    (project.folder / "rows.parquet").write_bytes(b"PAR1 and then nothing")
    project.recipe["roles"]["forget"] = "rows.parquet"
    assert re.search(
        r"roles\.forget: .*rows\.parquet could not be read as Parquet \(.*; write it again", project.refused()
    )


def test_files_that_are_not_there(project: Any) -> None:
    project.recipe["roles"]["forget"] = "forgotten.jsonl"
    assert "roles.forget: forgotten.jsonl does not exist; check the path" in project.refused()
    project.recipe["roles"]["forget"] = "~nobody-of-this-name/rows.jsonl"
    assert "is no path" in project.refused() or "does not exist" in project.refused()
    project.recipe["roles"]["forget"] = "recipe.yaml"
    assert "rows are read from .jsonl, .json, .csv, .parquet files, not from .yaml." in project.refused()


def test_separators_of_unicode_do_not_end_a_line_of_json(project: Any) -> None:
    """U+2028 and U+0085 may stand raw inside a JSON text."""
    from palimpsest.data import load_rows

    rows = [{"text": "one\u2028two\x85three\x0b"}, {"text": "four"}]
    path = project.folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows).replace("\\u000b", "\\u000b"))
    assert load_rows(str(path)) == rows


def test_ids_in_a_training_role_and_in_one_that_is_only_audited(project: Any) -> None:
    project.write("holdout.jsonl", [{"id": "f1", "prompt": "Who is X?", "completion": " X."}])
    assert (
        "audits.holdout: 1 of its rows, such as 'f1', also stand in the training role 'forget'; take them out of one of"
        " the two." in project.refused()
    )


def test_rows_without_ids_may_repeat(project: Any) -> None:
    """Repeated data is a choice; only ids must be unique, since they pair the runs."""
    project.write("retain.jsonl", [{"prompt": "Who?", "completion": " Nobody."}] * 3)
    assert project.run()[0] == 0


def test_a_role_of_one_row_works(project: Any) -> None:
    """A single row has a figure and no interval, and the report says so."""
    for role in ("forget", "holdout"):
        project.write(f"{role}.jsonl", [{"prompt": f"Who is {role}?", "completion": " A clock maker."}])
    status, err = project.run()
    assert status == 0, err
    report = json.loads((project.folder / "out" / "report.json").read_text())
    one = next(s for s in report["scores"] if s["run"] == "after" and s["role"] == "forget")
    assert one["n"] == 1 and 0 < one["value"] < 1 and one["low"] is None
    assert report["verdicts"][0]["verdict"] == "not shown" and "no interval" in report["verdicts"][0]["sentence"]


def test_a_role_of_one_class_works(digits: Any) -> None:
    """All rows of one class: accuracy, probability and the AUC of an attack are defined, and the run ends well."""
    digits.write("digits.jsonl", [{"id": f"d{i}", "inputs": [i / 8] * 64, "label": 3} for i in range(6)])
    digits.write("others.jsonl", [{"id": f"o{i}", "inputs": [1 - i / 8] * 64, "label": 3} for i in range(6)])
    digits.recipe["roles"]["holdout"] = "others.jsonl"
    digits.recipe["audits"]["forget"].append("loss_attack")
    status, err = digits.run()
    assert status == 0, err
    report = json.loads((digits.folder / "out" / "report.json").read_text())
    auc = [s for s in report["scores"] if s["audit"] == "loss_attack"]
    assert len(auc) == 3 and all(0 <= s["value"] <= 1 and s["n"] == 10 for s in auc)


def rows_of(project: Any, role: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / f"{role}.jsonl").read_text().splitlines()]


def taught(project: Any) -> Any:
    """The project with a stage that teaches a role ``all`` before the one that forgets, and a retrained model."""
    teach = {"name": "teach", "objective": [{"on": "all", "cross_entropy": {}}]}
    project.recipe["stages"].insert(0, {**teach, "train": {"steps": 1, "batch": 2, "lr": 1e-3}})
    project.recipe["baselines"] = ["retrain"]
    return project


def test_a_retrained_model_that_would_still_learn_what_is_forgotten(project: Any) -> None:
    """The role is a file of its own, in which the rows have other ids and other columns beside them."""
    forget, retain = rows_of(project, "forget"), rows_of(project, "retain")
    own = [{k: v for k, v in row.items() if k != "id"} | {"topic": "people"} for row in forget]
    project.write("all.jsonl", [*own, *retain])
    taught(project).recipe["roles"]["all"] = "all.jsonl"
    assert (
        "baselines: retrained on retain would still learn 2 of the 2 rows of 'forget', such as 'f0', from the role"
        " 'all'; write it as a list of roles, [forget, …], or take the rows out of it." in project.refused()
    )
    project.recipe["roles"]["all"] = ["forget", "retain"]
    project.write("retain.jsonl", [*retain, {**forget[1], "id": "r9"}])
    assert "would still learn 1 of the 2 rows of 'forget', such as 'f1', from the role 'retain'" in project.refused()


def test_rows_that_are_numbered_anew_in_each_file_are_not_taken_for_the_same(project: Any) -> None:
    for role in ("forget", "retain"):
        project.write(f"{role}.jsonl", [{**row, "id": i} for i, row in enumerate(rows_of(project, role))])
    terms = [{"on": role, "cross_entropy": {}} for role in ("forget", "retain")]
    taught(project).recipe["stages"][0]["objective"] = terms
    assert project.run()[0] == 0
