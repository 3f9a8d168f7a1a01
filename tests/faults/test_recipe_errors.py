"""Every mistake in a recipe or its data ends with one sentence that names the place and says what to do."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

GONE = object()


def put(recipe: Any, place: str, value: object) -> None:
    """Sets (or, with GONE, deletes) the value at ``a.0.b``."""
    *path, last = [int(p) if p.isdigit() else p for p in place.split(".")]
    for part in path:
        recipe = recipe[part]
    if value is GONE:
        del recipe[last]
    else:
        recipe[last] = value


TERM = "stages.0.objective.0"
MISTAKES: list[tuple[str, dict[str, object], str]] = [
    ("unknown key", {"modle": {}}, r"modle: there is no such key; did you mean model\?"),
    ("unknown key of the model", {"model.pretrain": 1}, r"model\.pretrain: there is no such key; did you mean"),
    ("unknown key of a stage", {"stages.0.trian": {}}, r"stages\.0\.trian: there is no such key; did you mean train\?"),
    ("unknown training key", {"stages.0.train.lrr": 1}, r"stages\.0\.train\.lrr: there is no such key; .* lr\?"),
    ("unknown lora key", {"stages.0.lora": {"rnk": 2}}, r"stages\.0\.lora\.rnk: there is no such key; .* rank\?"),
    ("one value for a list", {"seeds": 3}, r"seeds: write a list here, such as \[0, 1, 2\], not 3\."),
    ("a term for a list", {"stages.0.objective": {"on": "forget"}}, r"objective: write a list here, such as \[\{'on'"),
    ("missing key", {"audits": GONE}, r"audits: this key is missing; add it\."),
    ("model as text", {"model": "tiny-llama"}, r"model: write it as \{key: value\}, not as 'tiny-llama'; .*pretrained"),
    ("unknown method", {TERM: {"on": "forget", "npoo": {}}}, r"stages\.0\.objective\.0: .*'npoo'; did you mean 'npo'"),
    ("unknown field", {TERM: {"on": "forget", "npo": {"bta": 1}}}, r"objective\.0: npo has no field 'bta'; .*beta"),
    ("value of another type", {TERM: {"on": "forget", "npo": {"beta": "x"}}}, r"objective\.0\.npo\.beta: .*number"),
    ("value out of range", {TERM: {"on": "forget", "npo": {"beta": -1}}}, r"objective\.0.*npo.* -1"),
    ("no role", {TERM: {"npo": {}}}, r"stages\.0\.objective\.0: a term needs `on:`, the role it looks at; add it\."),
    ("two methods", {TERM: {"on": "forget", "npo": {}, "flat": {}}}, r"objective\.0: a term names one method.* 2"),
    ("unknown role", {f"{TERM}.on": "forgt"}, r"stages\.0\.objective: the role 'forgt' has no data; .*forget\?"),
    (
        "too many roles",
        {f"{TERM}.on": ["forget", "retain"]},
        r"objective\.0\.on: .* one role, not at 2; name as many",
    ),
    ("weight as text", {f"{TERM}.weight": "lots"}, r"objective\.0\.weight: There is no schedule 'lots'"),
    ("infinite weight", {f"{TERM}.weight": float("inf")}, r"objective\.0\.weight: give a finite number .* not inf\."),
    ("nan as weight", {f"{TERM}.weight": float("nan")}, r"objective\.0\.weight: give a finite number .* not nan\."),
    ("huge weight", {f"{TERM}.weight": 10**400}, r"objective\.0\.weight: give a finite number or a"),
    ("no steps", {"stages.0.train": {"lr": 1e-3}}, r"stages\.0\.train: Give either epochs or steps, one of the two"),
    ("steps and epochs", {"stages.0.train.epochs": 1}, r"stages\.0\.train: Give either epochs or steps"),
    ("negative rate", {"stages.0.train.lr": -1}, r"stages\.0\.train: lr must be a finite number above 0, not -1"),
    ("infinite rate", {"stages.0.train.lr": float("inf")}, r"stages\.0\.train: lr must be a finite number above 0"),
    ("unknown optimizer", {"stages.0.train.optimizer": "adamm"}, r"train\.optimizer: .*'adamm'; did you mean adamw\?"),
    ("no objective", {"stages.0.objective": GONE}, r"stages\.0: it has train but no objective; add one, or remove"),
    ("empty stage", {"stages": [{"name": "x"}]}, r"stages\.0: it does nothing; give it an objective, an edit or"),
    ("no stage", {"stages": []}, r"stages: a recipe needs at least one stage, with an objective and train; add one\."),
    ("stage and its keys", {"objective": []}, r"objective: write it inside a stage, since this recipe lists its"),
    (
        "stage in a folder",
        {"stages.0.name": "../../up"},
        r"stages\.0\.name: '\.\./\.\./up' becomes a folder's name; give",
    ),
    ("name of a folder above", {"name": ".."}, r"name: '\.\.' becomes a folder's name; give one without / and"),
    (
        "mask without training",
        {"stages.0": {"intervention": {"logit_difference": {}}, "mask": "salun"}},
        r"0\.mask: it",
    ),
    (
        "two combinations",
        {"stages.0.combine": {"sum": {}, "b": {}}},
        r"stages\.0\.combine: name one combination, not 2",
    ),
    ("unknown combination", {"stages.0.combine": "sun"}, r"stages\.0\.combine: .*'sun'; did you mean sum\?"),
    ("nothing to project", {"stages.0.combine": {"one_sided_projection": {"protect": "x"}}}, r"0\.combine: .*'x'"),
    ("selector", {"stages.0.select": {"forget": "best"}}, r"stages\.0\.select\.forget: There is no selector 'best'"),
    ("companion without start", {"stages.0.trains": "twin"}, r"stages\.0: a companion needs both trains .* and starts"),
    (
        "adapter_off without lora",
        {"stages.0.reference": "adapter_off"},
        r"0\.reference: adapter_off needs lora .*; add",
    ),
    (
        "adapter_off after a rewriting edit",
        {"stages.0.reference": "adapter_off", "stages.0.lora": {"rank": 2}, "stages.0.edit": "fila"},
        r"stages\.0\.reference: adapter_off would see what 'fila' rewrites in the base, not the model before training;",
    ),
    ("lora of rank 0", {"stages.0.lora": {"rank": 0}}, r"stages\.0\.lora: rank must be at least 1, not 0"),
    ("classes of a language model", {"model.classes": 3}, r"model: classes is for the adapter classifier, not for"),
    ("length 0", {"model.max_length": 0}, r"model: max_length must be at least 2 tokens, not 0"),
    ("audit of no role", {"audits.forgte": ["probability"]}, r"audits\.forgte: this role has no data; .*forget\?"),
    (
        "unknown audit",
        {"audits.forget": ["rogue"]},
        r"audits\.forget\.0: There is no audit 'rogue'; did you mean 'rouge'",
    ),
    ("audit as number", {"audits.forget": [5]}, r"audits\.forget\.0: write a name or \{name: .*\}, not 5\."),
    ("audit twice", {"audits.forget": ["probability"] * 2}, r"audits\.forget: probability is listed twice; keep one\."),
    ("no audit", {"audits": {}, "expect": {}}, r"audits: a run without measurements reports nothing; name an audit"),
    ("unmeasured", {"expect": {"forget/rouge": "lower"}}, r"expect\.forget/rouge: nothing measures this; did you mean"),
    ("no expectation", {"expect.forget/probability": "smaller"}, r"expect\.forget/probability: 'smaller' is no expect"),
    (
        "near to no run",
        {"expect.forget/probability": "nearer retrained"},
        r"no run is called 'retrained'; add the basel",
    ),
    ("unknown baseline", {"baselines": ["retrian"]}, r"baselines\.0: There is no baseline 'retrian'; .*'retrain'"),
    ("retrain what", {"baselines": ["retrain"]}, r"baselines\.0: retrain repeats the stages before the last, and this"),
    ("baseline twice", {"baselines": ["do_nothing"] * 2}, r"baselines: two runs would be called 'do_nothing'; rename"),
    (
        "variant like a baseline",
        {"variants": {"do_nothing": {"objective": [{"on": "retain", "cross_entropy": {}}], "train": {"steps": 1}}}},
        r"variants\.do_nothing: two runs would be called 'do_nothing'; rename the variant or remove one of them\.",
    ),
    ("variant called after", {"variants": {"after": {"edit": "fila"}}}, r"variants\.after: two runs would be called"),
    (
        "settings of a baseline",
        {"baselines": [{"retrain": {"train": {"lrr": 1}}}]},
        r"baselines\.0\..*lrr: there is no",
    ),
    ("seeds twice", {"seeds": [1, 1]}, r"seeds: give at least one number, each once\."),
    ("seed below 0", {"seeds": [-1]}, r"seeds: give whole numbers from 0"),
    ("role with a slash", {"roles.a/b": "forget.jsonl"}, r"roles\.a/b: a role's name has .* no /; rename it\."),
    ("role called weights", {"roles.weights": "forget.jsonl"}, r"roles\.weights: this name is kept for penalties"),
    ("role of a number", {"roles.x": 3}, r"roles\.x: give a file, .* or a list of roles, not 3\."),
    ("key of a role", {"roles.x": {"file": "a.csv", "row": 3}}, r"roles\.x\.row: there is no such key; .*rows\?"),
    ("rows of a role", {"roles.x": {"file": "a.csv", "rows": 0}}, r"roles\.x\.rows: give a whole number of at least 1"),
    ("union of nothing", {"roles.x": ["forgets"]}, r"roles\.x: 'forgets' is no other role; did you mean forget\?"),
    ("union twice", {"roles.x": ["forget", "forget"]}, r"roles\.x: a role stands in this list twice; name each once"),
    ("answers to nothing", {"roles.x": {"answers": ["no"], "to": ["a"]}}, r"roles\.x\.to: give a text, not \['a'\]\."),
    ("no answers", {"roles.x": {"answers": [], "to": "forget"}}, r"roles\.x\.answers: give a list of answers, a file,"),
    (
        "view of nothing",
        {"roles.x": {"augment": {}, "of": "frget"}},
        r"roles\.x: 'frget' is no other role; did you mean",
    ),
    (
        "unknown change of a view",
        {"roles.x": {"augment": {"shfit": 1}, "of": "forget"}},
        r"roles\.x\.augment\.shfit: there is no such key; did you mean shift\?",
    ),
    (
        "impossible view",
        {"roles.x": {"augment": {"noise": -1}, "of": "forget"}},
        r"roles\.x\.augment: shift and noise must not be negative",
    ),
    (
        "audit of a view",
        {"roles.x": {"augment": {"noise": 1}, "of": "forget"}, "audits.x": ["accuracy"]},
        r"audits\.x: this role is drawn afresh in every round",
    ),
    (
        "foreign code",
        {TERM: {"on": "forget", "mine.losses:Loss": {}}},
        r"objective\.0: .* only with --allow-imports; add",
    ),
]


@pytest.mark.parametrize(("changes", "says"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_in_the_recipe(project: Any, changes: dict[str, object], says: str) -> None:
    for place, value in changes.items():
        head, _, last = place.partition(".")
        if "/" in place:  # a key that holds a slash holds no further place
            project.recipe[head][last] = value
        else:
            put(project.recipe, place, value)
    said = project.refused()
    assert re.search(says, said), said
    assert not (project.folder / "out").exists()  # nothing was begun


def test_unknown_models(project: Any, digits: Any) -> None:
    digits.recipe["model"]["pretrained"] = "digit-mlp"
    assert "did you mean digits-mlp?" in digits.refused()
    project.recipe["model"] = {"pretrained": "tinyllama"}
    project.recipe["roles"] = {"forget": "forget.jsonl", "retain": "retain.jsonl"}
    project.recipe["audits"] = {"forget": ["probability"]}
    said = project.refused(out="second")
    assert said.startswith("palimpsest run: model.pretrained: There is no model or folder 'tinyllama'")
    assert "did you mean 'tiny-llama'" in said
    project.recipe["model"] = {"pretrained": "here.there:Model", "adapter": "classifier", "classes": 2}
    assert "model.pretrained: 'here.there:Model' names code outside Palimpsest" in project.refused(out="third")


Rows = list[object]
GOOD: Rows = [{"prompt": "Who?", "completion": " I."}, {"prompt": "You?", "completion": " No."}]
DATA: list[tuple[str, str | Rows, str]] = [
    ("empty file", "", r"roles\.forget: .*forget\.jsonl holds no rows; give it data or leave the role out\."),
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


def test_mistakes_with_a_classifier(digits: Any) -> None:
    audits = digits.recipe["audits"]
    digits.recipe["audits"] = {"forget": ["loss_attack"]}
    assert "audits.forget.loss_attack: loss_attack needs rows of the role 'holdout'; add it" in digits.refused()
    digits.recipe["audits"] = {"forget": [{"rouge": {}}]}
    assert re.search(r"audits\.forget\.rouge: .*no prompt; fill it or take another audit \(", digits.refused(out="b"))
    digits.recipe["audits"] = audits
    term = digits.recipe["stages"][0]["objective"][0]
    term.pop("gradient_ascent")
    term["random_label"] = {}
    rows = [{"inputs": [0.5] * 10, "label": 0}] * 2
    digits.write("digits.jsonl", rows)
    said = digits.refused(out="d")
    assert said.startswith("palimpsest run: audits.forget.accuracy: PyTorch stopped (mat1 and mat2 shapes cannot be")
    digits.write("digits.jsonl", [{"inputs": [0.5] * 64, "label": 11}])
    assert "forget row 1: the label 11 lies outside 0..9; correct it or set model.classes." in digits.refused(out="e")
    digits.write("digits.jsonl", [{"inputs": [float("nan")] * 64, "label": 1}])
    assert "forget row 1: the inputs hold a value that is not finite" in digits.refused(out="f")
    digits.recipe["model"]["features"] = "body"
    assert "model.features: the model has no module 'body'; there are: 0, 1, 2, 3, 4." in digits.refused(out="g")


def test_a_classifier_s_method_on_a_language_model(project: Any) -> None:
    project.recipe["stages"][0]["objective"][0] = {"on": "forget", "random_label": {}}
    assert re.search(r"stages\.0: a method here asks for \w+, which a language model does not", project.refused())


def test_max_length_beyond_the_model(project: Any) -> None:
    project.recipe["model"]["max_length"] = 5000
    assert "model.max_length: 5000 tokens are more than the 1024 this model can see; lower it." in project.refused()


def test_a_model_that_sees_little_needs_no_max_length(project: Any) -> None:
    """Left out, it is what the model can see, which a longer row is told; and never more than 1024."""
    folder = Path(project.recipe["model"]["pretrained"])
    small = project.folder / "small"
    shutil.copytree(folder, small)
    config = json.loads((small / "config.json").read_text())
    project.recipe["model"] = {"pretrained": str(small)}
    long = {"prompt": "a " * 90, "completion": "b"}
    for sees, most in ((48, 48), (4096, 1024)):
        (small / "config.json").write_text(json.dumps(config | {"max_position_embeddings": sees}))
        project.write("forget.jsonl", [{**long, "prompt": "a " * most}])
        assert f"tokens, but max_length is {most}; shorten the row" in project.refused()
    assert "max_length" not in (project.folder / "out/recipe.yaml").read_text()


@pytest.fixture
def untrained(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project whose recipe must be refused before its first stage."""
    monkeypatch.setattr(sys.modules["palimpsest.run"], "run_stage", lambda *_, **__: pytest.fail("a stage was run"))
    return project


@pytest.mark.parametrize("audit", [{"rouge": {"max_new_tokens": 4}}, "probability"])
def test_a_row_that_is_only_asked_and_is_too_long(untrained: Any, audit: Any) -> None:
    """A role that no stage trains on is read before the first one, so that nothing is trained in vain."""
    untrained.recipe["audits"]["holdout"] = [audit]
    untrained.write("holdout.jsonl", [{"id": "h", "prompt": "a " * 90, "completion": "b"}])
    assert re.search(r"audits\.holdout\.\w+: row 1 has \d+ tokens, but max_length is 64;", untrained.refused())


def test_a_class_that_is_only_asked_about(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["palimpsest.run"], "run_stage", lambda *_, **__: pytest.fail("a stage was run"))
    digits.write("others.jsonl", [{"inputs": [0.5] * 64, "label": 10}])
    digits.recipe["roles"]["others"] = "others.jsonl"
    digits.recipe["audits"]["others"] = ["accuracy"]
    assert "audits.others.accuracy: row 1: the label 10 lies outside 0..9;" in digits.refused()


def test_an_answer_that_does_not_fit_behind_its_prompt(untrained: Any) -> None:
    untrained.recipe["audits"]["holdout"] = [{"rouge": {"max_new_tokens": 1020}}]
    said = untrained.refused()
    assert re.search(
        r"audits\.holdout\.rouge: row \d has a prompt of \d+ tokens, and 1020 new ones are more than the 1024 this"
        r" model can see; lower max_new_tokens or shorten the row\.",
        said,
    ), said


@pytest.fixture
def without_template(project: Any) -> Any:
    """A model folder whose tokenizer has neither padding token nor chat template."""
    from palimpsest.zoo.models import tiny_llama

    model, tokenizer = tiny_llama(300, layers=1, width=16)
    tokenizer.chat_template = None
    tokenizer.pad_token = None
    model.config.pad_token_id = None
    model.generation_config.pad_token_id = None
    folder = project.folder / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    project.recipe["model"]["pretrained"] = str(folder)
    return project


def test_a_tokenizer_without_padding_token_works(without_template: Any) -> None:
    """Batches of rows of different lengths, scored and generated."""
    without_template.recipe["audits"]["forget"].append({"rouge": {"max_new_tokens": 4}})
    without_template.recipe["stages"][0]["train"]["steps"] = 1
    status, err = without_template.run()
    assert status == 0, err


def test_a_tokenizer_without_chat_template(without_template: Any) -> None:
    without_template.recipe["model"]["chat"] = True
    assert "model: this tokenizer has no chat template; set model.chat_template" in without_template.refused()
    without_template.recipe["model"]["chat_template"] = "{% for m in %}"
    assert re.search(
        r"model\.chat_template: the template fails \(.*; write chatml, or correct it\.", without_template.refused()
    )
    without_template.recipe["model"]["chat_template"] = "chatml"
    without_template.recipe["stages"][0]["train"]["steps"] = 1
    assert without_template.run()[0] == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--set", "seeds"], r"--set seeds: write it as place=value, such as objective\.0\.npo\.beta=0\.2\."),
        (["--set", "=3"], r"--set =3: write it as place=value"),
        (["--set", "stage.0.name=x"], r"the recipe has no stage; did you mean stages\?"),
        (["--set", "stages.1.name=x"], r"stages\.1 is no entry of a list of 1; count from 0\."),
        (["--set", "stages.²=x"], r"stages\.² is no entry of a list of 1"),
        (["--set", "name.first=x"], r"name is a value, so it has no first; set the value itself\."),
        (["--set", "seeds=[1"], r"--set seeds=\[1: the value is not YAML \(.*\); correct it\."),
        (["--set", "seeds=[0, 0]"], r"seeds: give at least one number, each once\."),
        (["--set", "stages.0.train.lr=fast"], r"stages\.0\.train\.lr: .*number.*'fast'"),
        (["--set", "nmae=x"], r"nmae: there is no such key; did you mean name\?"),
    ],
)
def test_overrides(project: Any, flags: list[str], says: str) -> None:
    said = project.refused(*flags)
    assert re.search(says, said), said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nroles: {a: [b}\n", r"broken\.yaml line 2: this is not YAML \(.*\); correct it\."),
        ("name: a\nname: b\n", r"broken\.yaml line 2: this is not YAML \(the key 'name' stands here twice\)"),
        ("name: \x07\n", r"broken\.yaml line 1: this is not YAML \(it holds a control character\)"),
        ("", r"A recipe is a mapping with the keys .*; this is empty\."),
        ("- a\n", r"A recipe is a mapping with the keys .*; this is a list\."),
        ("a: &a [*a]\n", r"nested too deeply, or holds itself by an alias; write it out\."),
        ("a: " + "[" * 3000, r"this is not YAML \(it is nested too deeply\)"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1: this is not YAML \(could not determine a constructor"),
        (
            "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]" for i in range(9)),
            r"has at most 100,000",
        ),
    ],
)
def test_files_that_are_no_yaml(project: Any, text: str, says: str) -> None:
    file = project.folder / "broken.yaml"
    file.write_text(text)
    status, err = project.call("run", str(file))
    assert status == 2 and len(err.splitlines()) == 1 and "Traceback" not in err, err
    assert re.search(says, err), err


def test_recipes_that_cannot_be_read(project: Any) -> None:
    def said(name: str, *flags: str) -> str:
        status, err = project.call("run", str(project.folder / name), *flags)
        assert status == 2 and len(err.splitlines()) == 1, err
        return str(err)

    assert re.search(r"There is no recipe .*nowhere\.yaml; check the path and name a YAML file\.", said("nowhere.yaml"))
    assert re.search(r"is a folder; name the YAML file in it\.", said(""))
    (project.folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert re.search(r"latin\.yaml is not UTF-8 text \(byte 9\); save it as UTF-8\.", said("latin.yaml"))


def test_python_recipes(project: Any) -> None:
    """They run only when imports are allowed, are checked like any other, and take --set."""
    file = project.folder / "made.py"

    def said(code: str, *flags: str) -> str:
        file.write_text(code)
        status, err = project.call("run", str(file), "--out", str(project.folder / "out"), *flags)
        lines = [x for x in err.splitlines() if x and not x.startswith(("[", "    ", "Loading"))]
        assert len(lines) == (status != 0) and "Traceback" not in err, err
        return str(lines[0]) if lines else "went well"

    good = f"from palimpsest import parse_recipe\ndef recipe():\n    return parse_recipe({project.recipe!r})\n"
    assert "made.py is Python, which runs only with --allow-imports; add that flag if you trust it." in said(good)
    allow = "--allow-imports"
    assert "made.py defines no recipe(); write def recipe() -> Recipe." in said("x = 1\n", allow)
    assert "recipe() returned int, not a Recipe; return a Recipe." in said("def recipe(): return 3\n", allow)
    assert re.search(r"made\.py line 2: KeyError \('x'\); correct the Python", said("def recipe():\n {}['x']\n", allow))
    assert re.search(r"made\.py line 1: SyntaxError \(.*\); correct", said("def recipe(:\n", allow))
    assert re.search(r"made\.py line 1: ModuleNotFoundError", said("import nothing_of_this_name\n", allow))
    object_inside = (
        good.replace("    return ", "    made = ") + "    made.roles['forget'] = object()\n    return made\n"
    )
    assert "a recipe holds text, numbers, lists and mappings, not a object; use plain values." in said(
        object_inside, allow
    )
    assert "stages.0.train: Give either epochs or steps" in said(good, allow, "--set", "stages.0.train.steps=null")
    assert said(good, allow, "--set", "stages.0.train.steps=1") == "went well"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def Loss():\n    pass\n", r"objective\.0: 'mine_\w+:Loss' is no objective; name a subclass of Objective\."),
        (
            "from palimpsest import Objective\nclass Loss(Objective):\n    pass\n",
            r"objective\.0: 'mine_\w+:Loss' has no settings; write @dataclass\(frozen=True\) above the class\.",
        ),
        (
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Loss:\n    pass\n",
            r"objective\.0: 'mine_\w+:Loss' is no objective; name a subclass of Objective\.",
        ),
        ("1 / 0\n", r"objective\.0: 'mine_\w+:Loss' failed \(ZeroDivisionError: division by zero\); correct its code"),
        ("x = 1\n", r"objective\.0: 'mine_\w+:Loss' could not be loaded .*; write it as package\.module:Class"),
    ],
)
def test_classes_of_the_user(project: Any, monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    name = f"mine_{abs(hash(code))}"
    (project.folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(project.folder))
    put(project.recipe, TERM, {"on": "forget", f"{name}:Loss": {}})
    said = project.refused("--allow-imports")
    assert re.search(says, said), said
    sys.modules.pop(name, None)


def test_messages_stay_short_and_on_one_line(project: Any) -> None:
    for key in ("x" * 5000, "a\nb\tc", "\x1b[31mred", "\u202e", "é" * 300):
        project.recipe[key] = 1
        said = project.refused()
        assert len(said) < 430 and said.isprintable()
        del project.recipe[key]


def test_resolved_paths_are_named(project: Any, tmp_path: Path) -> None:
    """An error in a variant or in a later stage names that stage."""
    stage = project.recipe["stages"][0]
    project.recipe["variants"] = {"other": [{**stage, "objective": [{"on": "forget", "uniform": {"x": 1}}]}]}
    assert "variants.other.0.objective.0: uniform has no field 'x'" in project.refused()


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
