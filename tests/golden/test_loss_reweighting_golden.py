"""Weights and losses against sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025@edd6f15."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.reweighted import Reweighted, loss_weights, shape, shifted

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("loss-reweighting.json").read_text())["cases"]}
ON_LOSSES = [what for what, case in CASES.items() if "losses" in case["inputs"]]
NAMES = {"mid": "quadratic", "upper": "linear"}
"""The released names of two strategies, and ours."""


def same(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance)


def test_the_file_holds_the_cases():
    assert len(ON_LOSSES) == 7 and len(CASES) == 8


@pytest.mark.parametrize("what", ON_LOSSES)
def test_weights(what):
    case = CASES[what]
    params, outputs = case["params"], case["outputs"]
    assert params["delta"] == 1
    strategy = NAMES.get(params["strategy"], params["strategy"])
    losses = torch.tensor(case["inputs"]["losses"], dtype=torch.float64)
    every = torch.ones(len(losses), dtype=torch.bool)
    same(shifted(losses, every), outputs["h"])
    same(shape(shifted(losses, every), strategy), outputs["f"])
    weights = loss_weights(losses, every, strategy, params["r"])
    same(weights, outputs["weights"])
    same((weights * losses).sum(), outputs["weighted_sum"])


def test_from_logits(from_logits):
    (case,) = (c for c in CASES.values() if "logits" in c["inputs"])
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    logits.requires_grad_()
    given = {"task": (logits, case["inputs"]["labels"])}
    plain = from_logits(on("task", Reweighted(CrossEntropy(), "linupper")), given).total
    same(plain.detach(), case["outputs"]["loss_weights_only"])
    by_length = from_logits(on("task", Reweighted(CrossEntropy(), "linupper", length_weighting=True)), given).total
    by_length.backward()
    single = 1e-7  # the release has the shares of the tokens in float32
    same(by_length.detach(), case["outputs"]["loss_with_length_fractions"], single)
    same(logits.grad, case["outputs"]["grad_logits_with_length_fractions"], single)
