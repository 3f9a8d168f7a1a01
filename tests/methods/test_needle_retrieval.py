"""Needles found in the output, word by word, and where in the context they lay."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.audits.needle_retrieval import NeedleRetrieval, found_share

ROWS = [
    {"id": "a", "prompt": "p", "answer": "red", "depth": 0.0},
    {"id": "b", "prompt": "q", "answer": ["12", "dark blue"], "depth": 0.5},
    {"id": "c", "prompt": "r", "answer": "green", "depth": 1.0},
    {"id": "d", "prompt": "s", "answer": "green", "depth": 0.9},
]
ANSWERS = {"p": "It is RED.", "q": "312, and dark blue", "r": "", "s": "green"}


def test_the_share_that_was_found(scripted: Any) -> None:
    scores = NeedleRetrieval()(scripted(answers=ANSWERS), {"far": ROWS}, "far")
    assert scores.items.tolist() == [1.0, 0.5, 0.0, 1.0]  # 12 is not found in 312
    assert scores.outputs == ("It is RED.", "312, and dark blue", "", "green")
    assert scores.extra == {"at the beginning": 1.0, "at the middle": 0.5, "at the end": 0.5}


def test_without_depths_there_is_no_table(scripted: Any) -> None:
    rows = [{k: v for k, v in row.items() if k != "depth"} for row in ROWS]
    assert NeedleRetrieval()(scripted(answers=ANSWERS), {"far": rows}, "far").extra == {}


def test_words_in_order() -> None:
    assert found_share("blue dark", "dark blue") == 0 and found_share("the dark blue sea", ["dark blue", "sea"]) == 1


def test_an_empty_answer_is_named(scripted: Any) -> None:
    with pytest.raises(ValueError, match="the far row 'x' has no answer"):
        NeedleRetrieval()(scripted(answers=ANSWERS), {"far": [{"id": "x", "prompt": "p", "answer": []}]}, "far")
