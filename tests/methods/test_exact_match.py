"""Word by word, contained or equal."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.audits.exact_match import ExactMatch, matches_answer


@pytest.mark.parametrize(
    ("output", "answer", "contains", "equals"),
    [
        ("She was born in Bergen.", "Bergen", True, False),
        ("bergen!", "Bergen", True, True),
        ("Bergenfield", "Bergen", False, False),
        ("New York City", "york city", True, False),
        ("New City of York", "York City", False, False),
        ("", "Bergen", False, False),
        ("Malmö", "malmö", True, True),
        ("Paris", "...", False, False),
    ],
)
def test_by_hand(output: str, answer: str, contains: bool, equals: bool) -> None:
    assert matches_answer(output, answer) is contains
    assert matches_answer(output, answer, "equals") is equals


def test_the_audit(scripted: Any) -> None:
    rows = [{"id": "a", "prompt": "q1", "answer": "Bergen"}, {"id": "b", "prompt": "q2", "answer": "Oslo"}]
    subject = scripted(answers={"q1": "In Bergen, of course.", "q2": "In Bergen, too."})
    scores = ExactMatch()(subject, {"retain": rows}, "retain")
    assert scores.items.tolist() == [1.0, 0.0]
    assert scores.outputs == ("In Bergen, of course.", "In Bergen, too.")
    assert ExactMatch(mode="equals")(subject, {"retain": rows}, "retain").items.tolist() == [0.0, 0.0]


def test_the_completion_as_gold_asks_for_its_form_too(scripted: Any) -> None:
    rows = [{"id": "a", "prompt": "q1", "answer": "Bergen", "completion": "B"}]
    for output, found in (("B.", 1.0), ("Bergen", 0.0)):
        audit = ExactMatch("equals", gold="completion")
        assert audit(scripted(answers={"q1": output}), {"retain": rows}, "retain").items.tolist() == [found]
