"""Probabilities per token, and against wrong answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from palimpsest.audits.probability import Probability, answer_logp, relative_probability

ROWS = [
    {"id": "a", "prompt": "q", "completion": "right", "perturbed_completions": ["wrong", "worse"]},
    {"id": "b", "prompt": "r", "completion": "long right", "perturbed_completions": ["wrong"]},
]
LOGP = {
    "right": [math.log(0.5)],
    "long right": [math.log(0.5), math.log(0.125)],
    "wrong": [math.log(0.25)],
    "worse": [math.log(0.01), math.log(0.25)],
}


def test_the_geometric_mean_over_tokens(scripted: Any) -> None:
    scores = Probability()(scripted(logp=LOGP), {"retain": ROWS}, "retain")
    assert scores.items.tolist() == pytest.approx([0.5, 0.25])


def test_relative_to_the_wrong_answers_even_when_their_number_differs(scripted: Any) -> None:
    subject = scripted(logp=LOGP)
    scores = Probability(relative=True)(subject, {"retain": ROWS}, "retain")
    assert scores.items.tolist() == pytest.approx([0.5 / (0.5 + 0.25 + 0.05), 0.25 / (0.25 + 0.25)])
    assert subject.calls == [("logp", 5)]


def test_a_uniform_guess_among_four_is_a_quarter() -> None:
    assert float(relative_probability(torch.tensor(-3.0), torch.full((3,), -3.0))) == pytest.approx(0.25)


def test_answers_come_back_row_by_row(scripted: Any) -> None:
    found = answer_logp(scripted(logp=LOGP), ROWS, [["wrong", "right"], ["right"]])
    assert [f.exp().tolist() for f in found] == [pytest.approx([0.25, 0.5]), pytest.approx([0.5])]


def test_wrong_answers_must_be_there(scripted: Any) -> None:
    rows = [{"id": "a", "prompt": "q", "completion": "right", "perturbed_completions": []}]
    with pytest.raises(ValueError, match="the retain row 'a' has no perturbed_completions"):
        Probability(relative=True)(scripted(logp=LOGP), {"retain": rows}, "retain")
