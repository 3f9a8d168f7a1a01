"""Every mistake in what a recipe says ends with one sentence that names the place and says what to do."""

from __future__ import annotations

import re
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
    (
        "unknown key of a variant that is called like another key",
        {"variants": {"lora": {"objectiv": []}}},
        r"variants\.lora\.0\.objectiv: there is no such key; did you mean objective\?",
    ),
    (
        "unknown key inside a part of such a variant",
        {"variants": {"watch": {"lora": {"rnk": 2}}}},
        r"variants\.watch\.0\.lora\.rnk: there is no such key; did you mean rank\?",
    ),
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
