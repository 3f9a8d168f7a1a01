"""Stop strings, the few-shot prompt, and the figure that MUSE prints."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest import names
from palimpsest.audits.knowledge_memorization import KnowledgeMemorization, cut, few_shot_prompt

ROWS = [
    {"id": "a", "prompt": "Which capital?", "completion": "It is Paris, in France.", "answer": "Paris"},
    {"id": "b", "prompt": "Which river?", "completion": "one two three", "answer": "Seine"},
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is Rome.\n\nQuestion: next", "It is Rome."),
        ("Rome\nQuestion: b", "Rome"),
        ("A Question: b\n\nc", "A "),
        ("Rome\nsecond line", "Rome\nsecond line"),
        ("", ""),
        ("Question: at once", ""),
    ],
)
def test_the_output_ends_before_the_earliest_stop_string(text: str, expected: str) -> None:
    assert cut(text) == expected


def test_without_stop_strings_nothing_is_cut() -> None:
    assert cut("a\n\nb", ()) == "a\n\nb"


def test_the_few_shot_prompt() -> None:
    expected = "Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\nQuestion: q\nAnswer:"
    assert few_shot_prompt("q", [("q1", "a1"), ("q2", "a2")]) == expected


def test_f1_by_default_and_recall_on_request(scripted: Any) -> None:
    subject = scripted(answers={"Which capital?": "Paris", "Which river?": "nothing alike"})
    f1 = KnowledgeMemorization()(subject, {"forget": ROWS}, "forget")
    recall = KnowledgeMemorization(measure="recall")(subject, {"forget": ROWS}, "forget")
    assert f1.items.tolist() == pytest.approx([2 * 1 * 0.2 / 1.2, 0.0])
    assert recall.items.tolist() == pytest.approx([0.2, 0.0])
    assert f1.ids == ("a", "b")


def test_the_short_answer_may_be_the_right_one(scripted: Any) -> None:
    subject = scripted(answers={"Which capital?": "Paris.\n\nQuestion: and", "Which river?": "the Seine"})
    scores = KnowledgeMemorization(gold="answer")(subject, {"forget": ROWS}, "forget")
    assert scores.outputs == ("Paris.", "the Seine")
    assert scores.items.tolist() == pytest.approx([1.0, 2 / 3])


def test_examples_stand_before_every_question(scripted: Any) -> None:
    start = "Question: x?\nAnswer: y\n\nQuestion: "
    answers = {f"{start}Which capital?\nAnswer:": "Paris", f"{start}Which river?\nAnswer:": "Seine"}
    audit = KnowledgeMemorization(gold="answer", few_shot=(("x?", "y"),))
    assert audit(scripted(answers=answers), {"forget": ROWS}, "forget").items.tolist() == [1.0, 1.0]


def test_a_recipe_s_lists_become_examples() -> None:
    built = names.build({"knowledge_memorization": {"few_shot": [["x?", "y"]]}}, "audits")
    assert built == KnowledgeMemorization(few_shot=(("x?", "y"),))
