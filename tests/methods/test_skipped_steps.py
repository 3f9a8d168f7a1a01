"""What is missing in the steps of an answer, by rules and by a judge."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.audits.skipped_steps import SkippedSteps, false_statements, labels_by_rule, read_labels

ROW = {"id": "s", "prompt": "q", "answer": "12", "steps": ["3 plus 5 is 8", "8 plus 4 is 12"]}


@pytest.mark.parametrize(
    ("output", "labels"),
    [
        ("the answer is 11 .", ["no_steps", "no_outline", "missing_steps"]),
        ("", ["no_steps", "no_outline", "missing_steps"]),
        ("First, 3 plus 5 is 8 . the answer is 8 .", ["missing_steps"]),
        ("3 plus 5 is 9 . 9 plus 4 is 13 . the answer is 13 .", ["no_outline", "false_statement"]),
        ("3 plus 5 is 8 . 8 plus 4 is 12 . the answer is 13 .", ["no_outline", "broken_chain"]),
        ("Step 1: 3 + 5 = 8. Step 2: 8 + 4 = 12. So the answer is 13.", ["broken_chain"]),
    ],
)
def test_rules(output: str, labels: list[str]) -> None:
    assert labels_by_rule(ROW, output) == labels


def test_without_named_steps_none_is_missing() -> None:
    assert labels_by_rule({}, "I thought about it for long . the answer is B") == ["no_outline", "broken_chain"]
    assert labels_by_rule({}, "B") == ["no_steps", "no_outline"]


def test_arithmetic() -> None:
    said = "2 + 2 = 4, 2 x 3 is 6, 7 minus 9 equals -2, 1.5 * 2 = 3; 2 + 2 = 5 and 3 × 3 is 8"
    assert false_statements(said) == ["2 + 2 = 5", "3 × 3 is 8"]


ROWS = [{**ROW, "id": f"s{i}", "prompt": f"q{i}"} for i in range(4)]
ANSWERS = {
    "q0": "the answer is 12 .",  # right, whatever it leaves out
    "q1": "the answer is 9 .",
    "q2": "3 plus 5 is 9 . 9 plus 4 is 13 . the answer is 13 .",
    "q3": "3 plus 5 is 8 . 8",
}


def test_only_failures_are_labelled(scripted: Any) -> None:
    scores = SkippedSteps()(scripted(answers=ANSWERS), {"sums": ROWS}, "sums")
    assert scores.items.tolist() == [0, 1, 0, 1] and scores.better == "lower"
    assert scores.extra == pytest.approx(
        {
            "not right": 3 / 4,
            "no_steps": 1 / 3,
            "no_outline": 1.0,
            "missing_steps": 2 / 3,
            "false_statement": 1 / 3,
            "broken_chain": 0.0,
            "explained by skipping": 2 / 3,
        }
    )


def test_right_answers_have_no_labels(scripted: Any) -> None:
    scores = SkippedSteps()(scripted(answers=dict.fromkeys(ANSWERS, "the answer is 12")), {"sums": ROWS}, "sums")
    assert scores.items.tolist() == [0] * 4 and scores.extra == {"not right": 0.0}


def test_a_judge_takes_the_place_of_the_rules(scripted: Any) -> None:
    seen: list[str] = []

    def judge(row: Any, output: str) -> list[str]:
        seen.append(row["id"])
        return ["broken_chain"]

    scores = SkippedSteps(judge=judge)(scripted(answers=ANSWERS), {"sums": ROWS}, "sums")
    assert seen == ["s1", "s2", "s3"] and scores.extra["broken_chain"] == 1 and scores.items.tolist() == [0] * 4
    with pytest.raises(ValueError, match="the judge said 'lazy'; it may say: no_steps, no_outline"):
        SkippedSteps(judge=lambda row, output: ["lazy"])(scripted(answers=ANSWERS), {"sums": ROWS}, "sums")


def test_a_reply_is_labels_or_it_is_not_read() -> None:
    assert read_labels("missing_steps, no_outline\n") == ["no_outline", "missing_steps"]
    assert (
        read_labels("The answer has no_steps") is None and read_labels("NO_STEPS") is None and read_labels(" ") is None
    )
