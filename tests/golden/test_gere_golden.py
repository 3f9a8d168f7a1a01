"""GeRe against numbers of Qznan/GeRe@34d74f5."""

import json
import math
from pathlib import Path

import pytest
import torch

from palimpsest.objective import on
from palimpsest.objectives.balanced_threshold_margin import dynamic_weight
from palimpsest.objectives.kl_to_reference import KLToReference
from palimpsest.objectives.threshold_margin import statistics, violations

CASES = json.loads(Path(__file__).with_name("gere.json").read_text())["cases"]
MARGINS = [c for c in CASES if c["what"].startswith("TM loss")]


def the(start):
    (case,) = [c for c in CASES if c["what"].startswith(start)]
    return case


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def same(found, expected, tolerance=1e-7):  # the code adds 1e-8 to its counts
    torch.testing.assert_close(found, tensor(expected), rtol=tolerance, atol=1e-8)


def margin(hidden, inputs):
    """The paper's loss over the batch."""
    mean, std = tensor(inputs["mean"]), tensor(inputs["std"])
    base = tensor(inputs.get("h0 (0 at padding)") or inputs["h0"])
    found = violations(hidden, base, mean - std, mean + std)
    found = torch.where(tensor(inputs["mask"]).bool().unsqueeze(-1), found, 0.0)
    return found.sum() / (found > 0).sum().clamp_min(1)


def cross_entropy(inputs):
    """Of the next token, over the whole text."""
    logits, labels = tensor(inputs["logits"])[:, :-1], torch.tensor(inputs["labels"])[:, 1:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("case", MARGINS, ids=lambda c: c["what"][-20:])
def test_margin_and_gradient(case):
    hidden = tensor(case["inputs"]["h"]).requires_grad_()
    loss = margin(hidden, case["inputs"])
    loss.backward()
    same(loss.detach(), case["outputs"]["tm_loss"])
    same(hidden.grad, case["outputs"]["d_tm_d_h"])


@pytest.mark.parametrize("batch", ["with_task", "general_only"])
@pytest.mark.parametrize("weight", ["1", "100", "dy"])
def test_total_loss(batch, weight):
    case = the("total loss for the three weightings")
    expected = case["outputs"][f"{batch}, w={weight}"]
    hidden = tensor(case["inputs"]["h"]).requires_grad_()
    own, loss = cross_entropy(case["inputs"]), margin(hidden, case["inputs"])
    ce = (own + case["params"]["task_ce"]) / 2 if batch == "with_task" else own
    factor = dynamic_weight(ce, loss, math.inf) if weight == "dy" else float(weight)
    (ce + factor * loss).backward()
    same(ce, expected["ce"])
    same(loss.detach(), expected["tm"])
    same((ce + factor * loss).detach(), expected["total"])
    same(hidden.grad.norm(), expected["grad_norm_h"])


@pytest.mark.parametrize("off", [0.1, 0.001, 1e-6])
def test_dynamic_weight_without_a_cap_grows_without_bound(off):
    case = the("dynamic weight with a single neutral entry")
    expected = next(v for k, v in case["outputs"].items() if float(k) == off)
    hidden = tensor([[[1 + off]]]).requires_grad_()
    one = torch.ones(1, dtype=torch.float64)
    loss, ce = violations(hidden, torch.zeros_like(hidden), -one, one).sum(), tensor(1.0)
    total = ce + dynamic_weight(ce, loss, math.inf) * loss
    total.backward()
    same(total.detach(), expected["total"])
    same(hidden.grad, expected["d_total_d_h"])
    assert float(dynamic_weight(ce, loss, 1e3)) <= 1e3 < expected["d_total_d_h"][0][0][0] or off > 1e-6


def test_statistics():
    case = the("per-dimension statistics")
    states = torch.cat([tensor(text) for text in case["inputs"]["h0_per_text"]])
    mean, deviation = statistics(states)
    same(mean, case["outputs"]["mean"], 1e-5)
    same(deviation, case["outputs"]["std"], 1e-5)
    assert len(states) == case["outputs"]["count"]


def test_the_released_statistics_of_a_constant_dimension_are_no_number():
    case = the("statistics with a dimension that is constant")
    assert case["outputs"]["std"][0] == "nan"
    _, deviation = statistics(torch.cat([torch.tensor(text) for text in case["inputs"]["h0_per_text"]]))
    torch.testing.assert_close(deviation, tensor([0.0, case["outputs"]["std"][1], 0.0]), rtol=1e-4, atol=1e-9)


def test_kl_baseline(from_logits):
    """Through the objective, with every position scored, as the release averages."""
    case = the("KL baseline on logits")
    student, teacher = (with_one_more(tensor(case["inputs"][f"{who}_logits"])) for who in ("student", "teacher"))
    labels = torch.zeros(student.shape[:2], dtype=torch.int64)
    term = on("replay", KLToReference(temperature=case["params"]["temperature"]))
    found = from_logits(term, {"replay": (student, labels)}, ref={"replay": teacher}).total
    same(found, case["outputs"]["kl"], 1e-9)


def with_one_more(logits):
    """[T, V] or [B, T, V] and a last position, which predicts nothing and has no part."""
    logits = logits if logits.ndim == 3 else logits.unsqueeze(0)
    return torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)
