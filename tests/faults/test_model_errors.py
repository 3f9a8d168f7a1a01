"""What a model cannot do with the recipe or the rows is said before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest


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


def test_an_end_of_text_needs_an_end_token(without_template: Any) -> None:
    without_template.recipe["model"]["end_of_text"] = True
    without_template.recipe["stages"][0]["train"]["steps"] = 1
    folder = Path(without_template.recipe["model"]["pretrained"])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            kept = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({k: v for k, v in kept.items() if k != "eos_token"}))
    assert "model.end_of_text: this tokenizer has no end token; give it one" in without_template.refused()


def test_an_end_of_text_reaches_the_rows(project: Any) -> None:
    """One token more in each row with text, which the report counts."""
    project.recipe["stages"][0]["objective"] = [{"on": "text", "cross_entropy": {}}]
    project.recipe["roles"]["text"] = "text.jsonl"
    project.recipe["expect"] = {}
    project.write("text.jsonl", [{"text": f"number {i} and more"} for i in range(4)])
    tokens = []
    for end in (False, True):
        project.recipe["model"]["end_of_text"] = end
        status, err = project.run(out=f"out-{end}")
        assert status == 0, err
        runs = json.loads((project.folder / f"out-{end}/report.json").read_text())["runs"]
        tokens.append(next(r for r in runs if r["name"] == "after"))
    train = project.recipe["stages"][0]["train"]
    assert tokens[1]["tokens"] - tokens[0]["tokens"] == train["steps"] * train["batch"]


def test_an_end_of_text_is_for_language_models(digits: Any) -> None:
    digits.recipe["model"]["end_of_text"] = True
    assert "model: end_of_text is for the adapter causal_lm, not for classifier; remove it" in digits.refused()
