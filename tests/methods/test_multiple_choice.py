"""The most likely answer, by sums or by means, and what a tie is worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palimpsest.audits.multiple_choice import MultipleChoice, chosen

ROWS = [
    {"id": "a", "prompt": "q", "completion": "right", "perturbed_completions": ["wrong", "worse"]},
    {"id": "b", "prompt": "r", "completion": "two words", "perturbed_completions": ["wrong"]},
]
LOGP = {"right": [-1.0], "wrong": [-1.5], "worse": [-2.0], "two words": [-1.0, -1.25]}


def test_sums_favor_short_answers_and_means_do_not(scripted: Any) -> None:
    subject = scripted(logp=LOGP)
    assert MultipleChoice()(subject, {"retain": ROWS}, "retain").items.tolist() == [1.0, 0.0]
    assert MultipleChoice("token")(subject, {"retain": ROWS}, "retain").items.tolist() == [1.0, 1.0]
    assert subject.calls == [("logp", 5)] * 2


@pytest.mark.parametrize(
    ("right", "wrong", "item"),
    [(-1.0, [-1.0, -2.0], 1 / 2), (-1.0, [-1.0, -1.0, -1.0], 1 / 4), (-2.0, [-2.0, -1.0], 0.0), (-1.0, [-2.0], 1.0)],
)
def test_a_tie_is_shared(right: float, wrong: list[float], item: float) -> None:
    assert float(chosen(torch.tensor(right), torch.tensor(wrong))) == item


def test_wrong_answers_must_be_there(scripted: Any) -> None:
    rows = [{"id": "a", "prompt": "q", "completion": "right", "perturbed_completions": []}]
    with pytest.raises(ValueError, match="the retain row 'a' has no perturbed_completions"):
        MultipleChoice()(scripted(logp=LOGP), {"retain": rows}, "retain")


def test_paraphrased_asks_in_the_other_words(scripted: Any) -> None:
    own = {"paraphrased_prompt": "s", "paraphrased_completion": "two words", "perturbed_paraphrases": ["worse"]}
    subject = scripted(logp=LOGP)
    audit = MultipleChoice("token", wording="paraphrased")
    assert audit(subject, {"retain": [{**ROWS[0], **own}]}, "retain").items.tolist() == [1.0]
    with pytest.raises(ValueError, match="the retain row 'a' has no paraphrased_prompt"):
        audit(subject, {"retain": ROWS}, "retain")


def test_one_wrong_answer_may_be_a_text_or_a_list(scripted: Any) -> None:
    scores = [
        MultipleChoice()(scripted(logp={"yes": [-2.0], "never": [-1.0, -1.5]}), {"pairs": rows}, "pairs").items.tolist()
        for wrong in ("never", ["never"])
        for rows in [[{"id": 1, "prompt": "q", "completion": "yes", "perturbed_completions": wrong}]]
    ]
    assert scores == [[1.0], [1.0]]
