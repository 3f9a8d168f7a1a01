"""The ratio by hand in both means, its two derived forms, and forget quality against a retrained run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from palimpsest.audits.truth_ratio import TruthRatio, closeness, truth_ratio, utility
from palimpsest.statistics import ks_two_sample

ROW = {
    "id": "a",
    "prompt": "q",
    "completion": "plain",
    "paraphrased_completion": "true",
    "perturbed_completions": ["false", "falser"],
}
LOGP = {"plain": [math.log(0.8)], "true": [math.log(0.5)], "false": [math.log(0.4)], "falser": [math.log(0.1)] * 3}


def test_geometric_and_arithmetic_by_hand() -> None:
    right, wrong = torch.tensor(0.5).log(), torch.tensor([0.4, 0.1]).log()
    assert float(truth_ratio(right, wrong)) == pytest.approx(math.sqrt(0.04) / 0.5)
    assert float(truth_ratio(right, wrong, "arithmetic")) == pytest.approx(0.25 / 0.5)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_one_when_true_and_false_are_equally_likely(mean: Any) -> None:
    same = torch.full((4,), -2.5, dtype=torch.float64)
    assert float(truth_ratio(same[0], same, mean)) == pytest.approx(1.0, abs=1e-12)


def test_the_derived_forms() -> None:
    ratio = torch.tensor([0.25, 1.0, 4.0])
    assert utility(ratio).tolist() == [0.75, 0.0, 0.0]
    assert closeness(ratio).tolist() == [0.25, 1.0, 0.25]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.2 / 0.5),
        ({"mean": "arithmetic"}, 0.5),
        ({"correct": "completion"}, 0.2 / 0.8),
        ({"form": "utility"}, 0.6),
        ({"form": "closeness"}, 0.4),
    ],
)
def test_the_audit(scripted: Any, fields: dict[str, Any], expected: float) -> None:
    scores = TruthRatio(**fields)(scripted(logp=LOGP), {"forget": [ROW]}, "forget")
    assert scores.items.tolist() == pytest.approx([expected])
    assert (scores.versus, scores.better) == ("ks", "nearer:retrained")


def test_paraphrases_are_held_against_their_own_wording(scripted: Any) -> None:
    row = {**ROW, "perturbed_paraphrases": ["other"]}
    subject = scripted(logp={**LOGP, "other": [math.log(0.05)]})
    assert TruthRatio()(subject, {"forget": [row]}, "forget").items.tolist() == pytest.approx([0.1])
    plain = TruthRatio(correct="completion")(subject, {"forget": [row]}, "forget")
    assert plain.items.tolist() == pytest.approx([0.25])


def test_the_goal_is_the_user_s_choice(scripted: Any) -> None:
    assert TruthRatio(better="lower")(scripted(logp=LOGP), {"retain": [ROW]}, "retain").better == "lower"


def test_forget_quality_is_one_for_the_retrained_model_itself(scripted: Any) -> None:
    scores = TruthRatio()(scripted(logp=LOGP), {"forget": [ROW]}, "forget")
    assert ks_two_sample(scores.items, scores.items).p == 1.0
    far = dataclasses.replace(scores, items=torch.full((12,), 9.0), ids=tuple("abcdefghijkl"))
    near = dataclasses.replace(far, items=torch.linspace(0.1, 0.9, 12))
    assert ks_two_sample(far.items, near.items).p < 1e-5


def test_a_row_without_a_paraphrase_is_named(scripted: Any) -> None:
    row = {k: v for k, v in ROW.items() if k != "paraphrased_completion"}
    with pytest.raises(ValueError, match="the forget row 'a' has no paraphrased_completion"):
        TruthRatio()(scripted(logp=LOGP), {"forget": [row]}, "forget")
