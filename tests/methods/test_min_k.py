"""The card's numbers, short texts, and the attack's orientation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palimpsest.audits.min_k import MinK, min_k
from palimpsest.statistics import aggregate

LOGP = torch.tensor([-1.0, -2.0, -3.0, -4.0, -10.0])


@pytest.mark.parametrize(("percent", "expected"), [(40, -7.0), (100, -4.0), (60, -17 / 3), (20, -10.0), (5, -10.0)])
def test_by_hand(percent: float, expected: float) -> None:
    assert min_k(LOGP, percent) == pytest.approx(expected)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_short_text_has_at_least_one_token(length: int) -> None:
    assert min_k(LOGP[:length], 5) == float(LOGP[:length].min())


def test_order_does_not_matter() -> None:
    assert min_k(LOGP.flip(0), 40) == min_k(LOGP, 40)


@pytest.mark.parametrize("percent", [0, -1, 101, float("nan")])
def test_a_share_outside_0_to_100_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="percent must lie above 0 and at most at 100"):
        MinK(percent=percent)


def test_members_that_are_all_more_likely_give_one(scripted: Any) -> None:
    data = {"forget": [{"text": "a"}, {"text": "b"}], "holdout": [{"text": "c"}]}
    subject = scripted(logp={"a": [-1.0, -2.0], "b": [-0.5, -3.0], "c": [-0.1, -9.0]})
    scores = MinK(percent=50)(subject, data, "forget")
    assert scores.items.tolist() == [-2.0, -3.0, -9.0]
    assert aggregate(scores.items, "auc", scores.groups) == 1.0
