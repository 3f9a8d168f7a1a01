"""FLAT against numbers of UCSC-REAL/FLAT@bf2ef07, and against the faults that must not be reproduced."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objective import on
from palimpsest.objectives.flat import FLAT, flat

CASES = json.loads(Path(__file__).with_name("flat.json").read_text())["cases"]
NAMES = {
    "Total-Variation": "total_variation",
    "KL": "kl",
    "Jenson-Shannon": "jensen_shannon",
    "Pearson": "pearson",
    "Jeffrey": "jeffrey",
    "Reverse-KL": "reverse_kl",
    "Squared-Hellinger": "squared_hellinger",
    "Neyman": "neyman",
}


def case(start):
    (found,) = [c for c in CASES if c["what"].startswith(start)]
    return found


def grid(inputs):
    return [torch.tensor(inputs[k], dtype=torch.float64, requires_grad=True) for k in ("P_forget", "P_template")]


@pytest.mark.parametrize("released", ["Total-Variation", "KL", "Jenson-Shannon", "Pearson", "Jeffrey"])
def test_losses_and_derivatives(released):
    found = case("loss and derivatives")
    expected = found["outputs"][released]
    forget, template = grid(found["inputs"])
    loss = flat(forget, template, NAMES[released])
    loss.sum().backward()
    # The released Jensen-Shannon holds ln 2 in float32, which is off by 3.8e-9.
    for value, key in ((loss.detach(), "loss"), (template.grad, "dloss_dP_template"), (forget.grad, "dloss_dP_forget")):
        torch.testing.assert_close(value, torch.tensor(expected[key], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("released", ["Reverse-KL", "Squared-Hellinger", "Neyman"])
def test_the_miswired_divergences_are_not_reproduced(released):
    found = case("the three mis-wired")
    expected = found["outputs"][released]
    forget, template = grid(found["inputs"])
    flat(forget, template, NAMES[released]).sum().backward()
    assert min(expected["dloss_dP_template"]) > 0  # the fault
    assert float(template.grad.max()) < 0 < float(forget.grad.min())


@pytest.mark.parametrize("start", ["from logits, Total-Variation", "from logits, KL", "from logits, Pearson"])
def test_from_logits(start, from_logits):
    found = case(start)
    inputs, outputs = found["inputs"], found["outputs"]
    legacy = "reduction" in found["params"]
    forget, template = (
        torch.tensor(inputs[k], dtype=torch.float64, requires_grad=True) for k in ("logits_forget", "logits_template")
    )
    given = {"forget": (forget, inputs["labels_forget"]), "refusal": (template, inputs["labels_template"])}
    objective = FLAT(NAMES[found["params"]["divergence"]], legacy_reduction=legacy)
    loss = from_logits(on(("forget", "refusal"), objective), given).total
    loss.backward()
    for value, key in (
        (loss.detach(), "loss"),
        (forget.grad, "grad_logits_forget"),
        (template.grad, "grad_logits_template"),
    ):
        torch.testing.assert_close(value, torch.tensor(outputs[key], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_the_paper_s_reduction_is_the_default(from_logits):
    found = case("from logits, Pearson")
    inputs = found["inputs"]
    given = {
        "forget": (torch.tensor(inputs["logits_forget"], dtype=torch.float64), inputs["labels_forget"]),
        "refusal": (torch.tensor(inputs["logits_template"], dtype=torch.float64), inputs["labels_template"]),
    }
    loss = from_logits(on(("forget", "refusal"), FLAT("pearson")), given).total
    assert float(loss) == pytest.approx(-0.04862951168, abs=1e-9)
