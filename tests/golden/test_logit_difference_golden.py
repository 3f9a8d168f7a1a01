"""ULD's combination of logits against numbers of UCSB-NLP-Chang/ULD@858608c."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.interventions.logit_difference import combine_generation, combine_scoring, keep_set

CASES = json.loads(Path(__file__).with_name("uld.json").read_text())["cases"]


def case(start: str) -> dict[str, Any]:
    (found,) = [c for c in CASES if c["what"].startswith(start)]
    return dict(found)


def logits(found: dict[str, Any]) -> tuple[Tensor, Tensor, float, float]:
    """b, a, alpha and the filter."""
    b, a = (torch.tensor(found["inputs"][k], dtype=torch.float64) for k in ("target_logits", "assistant_logits"))
    return b, a, found["params"]["alpha"], found["params"]["top_logit_filter"]


@pytest.mark.parametrize(
    "start",
    [
        "generation logits, alpha 0.8, filter r = 0.25",
        "generation logits, alpha 1.2, filter r = 0.1",
        "overconfident target",
    ],
)
def test_generation(start: str) -> None:
    found = case(start)
    b, a, alpha, share = logits(found)
    assert keep_set(b.log_softmax(-1), share).int().tolist() == found["outputs"]["keep"]
    expected = torch.tensor(found["outputs"]["logits"], dtype=torch.float64)
    expected = expected.masked_fill(expected == -1000, -math.inf)
    torch.testing.assert_close(combine_generation(b, a, alpha, share), expected, rtol=1e-9, atol=1e-9)


def test_a_filter_of_less_than_one_token_keeps_at_least_one() -> None:
    """The release wraps around and keeps all twelve."""
    found = case("generation logits, alpha 0.8, filter r = 0.01")
    b, _, _, share = logits(found)
    assert keep_set(b.log_softmax(-1), share).sum(-1).tolist() == [9, 3, 5]
    assert torch.tensor(found["outputs"]["keep"]).sum(-1).tolist() == [12, 12, 12]


def test_without_a_filter() -> None:
    found = case("generation logits, no filter")
    b, a, alpha, share = logits(found)
    ours = combine_generation(b, a, alpha, share)
    expected = torch.tensor(found["outputs"]["logits"], dtype=torch.float64)
    torch.testing.assert_close(ours.log_softmax(-1), expected.log_softmax(-1), rtol=1e-9, atol=1e-9)
    assert ours.argmax(-1).tolist() == found["outputs"]["next_token"]


def test_scoring_is_the_proper_distribution_and_not_the_released_one() -> None:
    """2.407053388 whatever is added; the released loss moves from 2.931 to 1.687 when 2 is added to a."""
    found = case("scoring path")
    b, a, alpha, share = logits(found)
    targets = torch.tensor(found["inputs"]["labels"])[:, 1:]

    def loss(b: Tensor, a: Tensor) -> float:
        scores = combine_scoring(b, a, alpha, share)[:, :-1]
        return float(nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten()))

    for shifted in ((b, a), (b, a + 2), (b + 1.5, a)):
        assert loss(*shifted) == pytest.approx(2.407053388, abs=1e-8)
    released = found["outputs"]
    assert abs(released["loss"] - released["loss_after_adding_2_to_all_assistant_logits"]) > 1
