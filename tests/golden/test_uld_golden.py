"""ULD's training losses against numbers of UCSB-NLP-Chang/ULD@858608c."""

import json
from pathlib import Path

import torch

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.uniform import Uniform, divergence_from_uniform

CASES = json.loads(Path(__file__).with_name("uld.json").read_text())["cases"]


def case(start):
    (found,) = [c for c in CASES if c["what"].startswith(start)]
    return found


def same(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_uniform_loss():
    found = case("uniform loss on retain logits")
    logits = torch.tensor(found["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    loss = divergence_from_uniform(logits).mean()
    loss.backward()
    same(loss.detach(), found["outputs"]["loss"])
    same(logits.grad, found["outputs"]["grad_logits"])


def test_assistant_loss(from_logits):
    found = case("assistant training loss")
    inputs, outputs = found["inputs"], found["outputs"]
    logits = torch.tensor(inputs["logits"], dtype=torch.float64, requires_grad=True)
    labels, retain = torch.tensor(inputs["labels"]), torch.tensor(inputs["is_retain"]).bool()
    # The release also scores the position after the end of a row: one more column makes it predict something.
    longer = torch.cat([logits[retain], torch.zeros_like(logits[retain][:, :1])], 1)
    given = {
        "forget": (logits[~retain], labels[~retain]),
        "retain": (longer, torch.zeros(longer.shape[:2], dtype=torch.int64)),
    }
    losses = from_logits(
        on("forget", CrossEntropy()) + found["params"]["retain_weight"] * on("retain", Uniform()), given
    )
    losses.total.backward()
    same(losses.parts["forget/cross_entropy"], outputs["forget_loss"])
    same(losses.parts["retain/uniform"], outputs["retain_loss"])
    same(losses.total.detach(), outputs["loss"])
    same(logits.grad, outputs["grad_logits"])
