"""What an output states as its answer: read, or not read, never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.audits.final_answer import FinalAnswer, number, outcome, read_answer


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("The answer is C", "C"),
        ("the answer is (C).", "C"),
        ("**Answer: C**", "C"),
        ("Since A is out, the answer is B. Wait, the answer is D.", "D"),
        ("so \\boxed{ b }", "B"),
        ("The answer is B, but \\boxed{C}", "C"),
        (" c. ", "C"),
        ("The answer is C because it is heavier", "C"),
        ("No clear option", None),
        ("A dog is the best choice", None),
        ("The answer is a dog", None),
        ("The answer is A dog", None),
        ("The answer is Copper", None),
        ("The answer is E", None),
        ("\\boxed{N/A}", None),
        ("the answer is N/A", None),
        ("Both A and C", None),
        ("", None),
    ],
)
def test_labels(output: str, label: str | None) -> None:
    assert read_answer(output, "ABCD") == label


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("3 plus 5 is 8 . the answer is 12 .", "12"),
        ("The answer is $1,200.50.", "1,200.50"),
        ("the answer is: -3", "-3"),
        ("\\boxed{7}", "7"),
        ("7", "7"),
        ("the answer is 12th", None),
        ("the answer is 1/2", None),
        ("the answer is unknown", None),
        ("8 . 12", None),
    ],
)
def test_numbers(output: str, value: str | None) -> None:
    assert read_answer(output, numeric=True) == value


def test_free_text_reaches_to_the_end_of_the_sentence() -> None:
    assert read_answer("I think. The answer is Tallinn, Estonia. Yes.") == "Tallinn, Estonia"
    assert read_answer("Tallinn, Estonia") is None  # it is not said to be the answer


def test_outcomes() -> None:
    assert outcome("the answer is 1,200", 1200.0) == "right" and outcome("the answer is 1201", "1200") == "wrong"
    assert outcome("1200 it may be", "1200") == "unreadable"
    assert (
        outcome("The answer is D", "C", "ABCD") == "wrong" and outcome("No clear option", "C", "ABCD") == "unreadable"
    )
    assert outcome("The answer is tallinn - Estonia!", "Tallinn, Estonia") == "right"
    assert (number("1,000"), number("-2.5"), number("2 apples"), number("")) == (1000.0, -2.5, None, None)


ROWS = [{"id": str(i), "prompt": f"q{i}", "answer": "12"} for i in range(4)]
ANSWERS = {"q0": "the answer is 12", "q1": "the answer is 13", "q2": "12 or 13", "q3": ""}


def test_unreadable_is_not_wrong(scripted: Any) -> None:
    scores = FinalAnswer()(scripted(answers=ANSWERS), {"sums": ROWS}, "sums")
    assert scores.items.tolist() == [1, 0, 0, 0]
    assert scores.extra == {"right": 0.25, "wrong": 0.25, "unreadable": 0.5, "right among readable": 0.5}
    assert FinalAnswer("readable")(scripted(answers=ANSWERS), {"sums": ROWS}, "sums").items.tolist() == [1, 1, 0, 0]


def test_where_nothing_can_be_read_no_share_of_it_is_right(scripted: Any) -> None:
    found = FinalAnswer()(scripted(answers=dict.fromkeys(ANSWERS, "hm")), {"sums": ROWS}, "sums")
    assert found.extra == {"right": 0.0, "wrong": 0.0, "unreadable": 1.0}


def test_labels_of_a_row_are_its_choices(scripted: Any) -> None:
    rows = [{"id": "a", "prompt": "q", "answer": "2", "choices": ["1", "2"]}]
    for answer, right in (("the answer is 2", 1.0), ("the answer is 2.5", 0.0), ("the answer is 3", 0.0)):
        assert FinalAnswer()(scripted(answers={"q": answer}), {"r": rows}, "r").items.tolist() == [right]
