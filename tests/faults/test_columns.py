"""A column that is missing is found before the model is loaded: with real data, that is minutes earlier."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import pytest

from palimpsest import names
from palimpsest.recipe_source import parse_recipe
from palimpsest.rehearsal import rehearse

RUN = importlib.import_module("palimpsest.run")  # the package's ``run`` is the function
TOFU_LIKE = {"completion": "b", "paraphrased_completion": "c", "perturbed_completions": ["d"]}


@pytest.fixture
def unloaded(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The project with its model out of reach."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded before its data were looked at")

    monkeypatch.setattr(RUN, "load_model", never)
    return project


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "completion": None}, "completion is empty (null); give it words or leave the row out."),
        ({"prompt": None, "completion": "b"}, "prompt is empty (null); give it words or leave the row out."),
        ({"prompt": "a", "completion": 42}, "completion must be text, not '42' as a number; put it in quotes."),
        ({"text": 4.5}, "text must be text, not '4.5' as a number; put it in quotes."),
        ({"text": None}, "text is empty (null); give it words or leave the row out."),
        ({"prompt": {"a": 1}, "completion": "b"}, "prompt must be text or a list of messages with role and content,"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
            "the content of message 2 of messages is empty (null); give it words or leave the row out.",
        ),
        (
            {"prompt": [{"role": "user", "content": 3}], "completion": "b"},
            "the content of message 1 of prompt must be text, not '3' as a number; put it in quotes.",
        ),
    ],
)
def test_what_is_no_text_is_not_spelled_out(unloaded: Any, row: dict[str, object], says: str) -> None:
    """A null would be trained on as the word None."""
    unloaded.write("forget.jsonl", [{"prompt": "a", "completion": "b"}, row])
    assert f"roles.forget: forget row 2: {says}" in unloaded.refused()


def test_a_prompt_that_is_no_text_is_not_asked(unloaded: Any) -> None:
    unloaded.write("holdout.jsonl", [{"prompt": 7, "completion": "b"}])
    unloaded.recipe["audits"]["holdout"] = ["rouge"]
    assert "rouge: row 1: prompt must be text, not '7' as a number; put it in quotes." in unloaded.refused()


def test_answers_that_an_audit_chooses_among_may_be_numbers(project: Any) -> None:
    row = {"prompt": "2 + 2 =", "completion": "4", "paraphrased_completion": 4, "perturbed_completions": [3, 5.5]}
    project.write("holdout.jsonl", [row])
    project.recipe["audits"]["holdout"] = ["truth_ratio", "multiple_choice", {"final_answer": {"max_new_tokens": 2}}]
    project.write("holdout.jsonl", [{**row, "answer": 4}])
    assert project.run()[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("csv", "question,answer\na,b\n", r"roles\.forget: forget row 1 has the columns \['answer', 'question'\]; a l"),
        ("csv", "prompt,answer\na,b\n", r"roles\.forget: forget row 1 has a prompt but no completion; add the column"),
        ("csv", "prompt,completion\na,b\nc,\n", r"roles\.forget: forget row 2: the completion is empty, so nothing"),
        ("jsonl", '{"text": "a b"}\n{"txt": "c"}\n', r"roles\.forget: forget row 2 has the columns \['txt'\]; a lang"),
        ("jsonl", '{"messages": [{"role": "user", "content": "a"}]}', r"forget row 1: messages must end with the assi"),
    ],
)
def test_a_column_to_train_on(unloaded: Any, name: str, text: str, says: str) -> None:
    (unloaded.folder / f"own.{name}").write_text(text)
    unloaded.recipe["roles"]["forget"] = f"own.{name}"
    said = unloaded.refused()
    assert re.search(says, said), said


@pytest.mark.parametrize(
    ("audit", "row", "says"),
    [
        (
            "rouge",
            {"text": "a b"},
            r"audits\.holdout\.rouge: rouge: the holdout row 1 has no prompt; fill",
        ),
        ("truth_ratio", {"prompt": "a", **TOFU_LIKE, "perturbed_completions": []}, r"has no perturbed_completions;"),
        ("perplexity", {"prompt": "a"}, r"audits\.holdout\.perplexity: row 1 has a prompt but no completion; add"),
        ("extraction_strength", {"question": "a"}, r"holdout\.extraction_strength: row 1 has the columns \['question'"),
        ("verbatim_memorization", {"text": "few words"}, r"nothing follows the first 32 words of the holdout row"),
        ({"min_k": {"holdout": "unseen"}}, {"text": "a b"}, r"holdout\.min_k: min_k needs rows of the role 'unseen';"),
        ({"pass_at_n": {"n": 2}}, {"prompt": "a", "completion": "b"}, r"pass_at_n: the holdout row .* has no answer;"),
        ("model_utility", {"prompt": "a", **TOFU_LIKE}, r"model_utility needs rows of the role 'real_authors'; add"),
    ],
)
def test_a_column_to_measure(unloaded: Any, audit: object, row: dict[str, object], says: str) -> None:
    unloaded.write("holdout.jsonl", [row])
    unloaded.recipe["audits"]["holdout"] = [audit]
    said = unloaded.refused()
    assert re.search(says, said), said


def test_a_role_that_an_audit_comes_to_last(unloaded: Any) -> None:
    """The figures of two roles would have been measured before the third turns out to lack a column."""
    for role in ("holdout", "real_authors", "world_facts"):
        row = {"prompt": "a", **TOFU_LIKE}
        unloaded.write(f"{role}.jsonl", [row if role != "world_facts" else {"prompt": "a", "completion": "b"}])
        unloaded.recipe["roles"][role] = f"{role}.jsonl"
    unloaded.recipe["audits"]["holdout"] = ["model_utility"]
    assert "the world_facts row 1 has no perturbed_completions" in unloaded.refused()


def test_a_column_that_is_measured_on_the_way(unloaded: Any) -> None:
    unloaded.recipe["stages"][0]["watch"] = {"every": 1, "audits": {"retain": ["truth_ratio"]}}
    assert "stages.0.watch.audits.retain.truth_ratio: truth_ratio: the retain row 'r0' has" in unloaded.refused()


def test_a_column_of_a_mix_whose_tokens_are_counted(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting needs the tokenizer, so it loads the model."""
    monkeypatch.setattr("palimpsest.zoo.models.load_causal_lm", lambda _: pytest.fail("the model was loaded"))
    project.write("retain.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "a", "answer": "b"}])
    project.recipe["roles"]["stream"] = {"mix": {"forget": 0.5, "retain": 0.5}, "tokens": 40}
    assert "roles.stream: retain row 2 has a prompt but no completion; add the column" in project.refused()
    project.recipe["roles"]["stream"]["mix"] = {"forget": 0.5, "holdout": 0.5}
    project.recipe["model"]["pretrained"] = "tinyllama"
    monkeypatch.undo()
    assert "palimpsest run: model.pretrained: There is no model or folder 'tinyllama'" in project.refused()


def test_columns_of_a_classifier(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUN, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    digits.write("digits.jsonl", [{"inputs": [0.5] * 64, "label": 1}] * 3 + [{"inputs": [0.5] * 64}])
    assert "forget row 4 has the columns ['inputs']; a classifier needs inputs and label." in digits.refused()


@pytest.mark.parametrize("name", names.names("audits"))
def test_every_audit_is_rehearsed(project: Any, name: str) -> None:
    """Rows without any column that a model reads."""
    project.recipe["audits"] = {"forget": [name]}
    recipe = parse_recipe(project.recipe | {"expect": {}})
    rows: dict[str, Sequence[dict[str, object]]] = {"forget": [{"nothing": 1}], "holdout": [{"nothing": 2}]}
    with pytest.raises(ValueError, match=rf"^audits\.forget\.{name}: "):
        rehearse(recipe, rows, {}, {})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "completion": "b"}, "the holdout row 1 has no paraphrased_completion; fill"),
        ({"prompt": "a", "paraphrased_completion": "c", "perturbed_completions": ["d"]}, "row 1 has a prompt but no"),
    ],
)
def test_what_an_audit_reads_after_it_has_trained_a_copy(unloaded: Any, row: dict[str, object], says: str) -> None:
    """What the inner audit lacks, and what training would."""
    unloaded.write("holdout.jsonl", [row])
    unloaded.recipe["audits"]["holdout"] = [{"relearning": {"audit": "truth_ratio"}}]
    said = unloaded.refused()
    assert "audits.holdout.relearning: " in said and says in said


def test_good_rows_pass(project: Any) -> None:
    """Also rows that are only scored, and so need no prompt."""
    recipe = parse_recipe(project.recipe)
    rows = {"forget": [{"prompt": "a", "completion": "b"}], "holdout": [{"text": "c d"}]}
    rehearse(recipe, rows, {}, {"stages.0": recipe.stages[0]})


def test_what_several_stages_watch_is_read_once(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizing thousands of rows takes seconds, and a study watches the same ones in dozens of stages."""
    read: list[str] = []
    place = "palimpsest.audits.probability.Probability.__call__"
    monkeypatch.setattr(place, lambda _self, _subject, _rows, role: read.append(role))
    watched = {"one": "probability", "two": "probability", "three": {"probability": {"relative": True}}}
    project.recipe["stages"] = [
        {**project.recipe["stages"][0], "name": name, "watch": {"every": 1, "audits": {"holdout": [audit]}}}
        for name, audit in watched.items()
    ]
    rehearse(parse_recipe(project.recipe), {}, {}, {})
    assert read == ["forget", "holdout", "holdout"]
