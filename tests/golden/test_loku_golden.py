"""The inverted hinge against numbers of csm9493/efficient-llm-unlearning@272484a."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.inverted_hinge import InvertedHinge, inverted_hinge

CASES = json.loads(Path(__file__).with_name("loku.json").read_text())["cases"]


def case(start):
    (found,) = [c for c in CASES if c["what"].startswith(start)]
    return found


def leaf(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def same(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_forget_and_retain_terms(from_logits):
    found = case("IHL on forget + token-mean CE on retain")
    inputs, outputs = found["inputs"], found["outputs"]
    forget, retain = leaf(inputs["logits_forget"]), leaf(inputs["logits_retain"])
    total = on("forget", InvertedHinge()) + found["params"]["retain_weight"] * on("retain", CrossEntropy())
    given = {"forget": (forget, inputs["labels_forget"]), "retain": (retain, inputs["labels_retain"])}
    losses = from_logits(total, given)
    losses.total.backward()
    same(losses.total.detach(), outputs["loss"])
    same(losses.parts["forget/inverted_hinge"], outputs["ihl"])
    same(forget.grad, outputs["grad_logits_forget"])
    same(retain.grad, outputs["grad_logits_retain"])


@pytest.mark.parametrize("start", ["IHL alone", "probabilities (0.6"])
def test_rows_of_logits(start):
    found = case(start)
    logits = leaf(found["inputs"]["logits"])
    loss = inverted_hinge(logits, torch.tensor(found["inputs"]["targets"])).mean()
    loss.backward()
    same(loss.detach(), found["outputs"]["loss"])
    same(logits.grad, found["outputs"]["grad_logits"])


def test_the_skipped_softmax_is_not_reproduced():
    found = case("logits that all lie in [0,1]")
    logits = leaf(found["inputs"]["logits"]).detach()
    loss = inverted_hinge(logits, torch.tensor(found["inputs"]["targets"])).mean()
    assert found["outputs"]["loss"] == 0.9
    assert float(loss) == pytest.approx(0.9909302858, abs=1e-9)
