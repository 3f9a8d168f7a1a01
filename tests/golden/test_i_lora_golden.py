"""I-LoRA against numbers of which47/LLMCL@a9dae12; what its average fails to do is tested the other way round."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from palimpsest.objectives.embedding_consistency import consistency
from palimpsest.reference import SlowAverage

CASES = json.loads(Path(__file__).with_name("i-lora.json").read_text())["cases"]
CONSISTENCY = [c for c in CASES if c["what"].startswith("consistency")]


def the(start):
    (case,) = [c for c in CASES if c["what"].startswith(start)]
    return case


def blocks(layers):
    """[B, T, layers * D] from a list of [B, T, D]."""
    return torch.cat([torch.tensor(layer, dtype=torch.float64) for layer in layers], -1)


@pytest.mark.parametrize("case", CONSISTENCY, ids=lambda c: f"{c['params']['layers']} layers")
@pytest.mark.parametrize(
    ("sides", "value", "gradient"),
    [
        ("below", "one_sided_code", "grad_one_sided_fast"),
        ("both", "two_sided_published_form", "grad_two_sided_fast"),
    ],
)
def test_consistency(case, sides, value, gradient):
    fast, slow = blocks(case["inputs"]["fast[layer]"]).requires_grad_(), blocks(case["inputs"]["slow[layer]"])
    loss = consistency(fast, slow, sides).mean()
    loss.backward()
    torch.testing.assert_close(float(loss.detach()), case["outputs"][value], rtol=1e-9, atol=0)
    torch.testing.assert_close(fast.grad, blocks(case["outputs"][gradient]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [0.25, 0.9, 0.999])
def test_warm_start(decay):
    case = the("weight of the old average")
    expected = next(v for k, v in case["outputs"]["alpha"].items() if float(k) == decay)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    slow = SlowAverage(model, decay, warm=True)
    nn.init.zeros_(model.weight)
    left = 1.0  # of the first value, 1; all later ones are 0
    for step in case["inputs"]["s"][1:]:
        slow.after_step(model)
        left *= expected[step]
        assert float(slow.module.weight.detach()) == pytest.approx(left, rel=1e-12)


def test_the_released_average_never_moves_and_ours_does():
    case = the("one call of the EMA update")
    assert case["outputs"]["largest change of the slow adapter"] == 0.0
    model = nn.Linear(3, 2)
    slow = SlowAverage(model, case["params"]["ema_alpha"])
    before = slow.module.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    slow.after_step(model)
    torch.testing.assert_close(slow.module.weight.detach(), 0.25 * before + 0.75 * model.weight.detach())


def test_padding_is_not_scored_as_it_is_in_the_release():
    from palimpsest.adapters.causal_lm import CausalLM
    from palimpsest.zoo.models import tiny_llama

    case = the("padding of a replayed batch")
    assert [0, 0, 8] in case["outputs"]["labels"], "token 0 is trained on"
    rows = [{k: torch.tensor(v[i]) for k, v in case["inputs"].items()} for i in range(2)]
    batch = CausalLM(tiny_llama(300, 1, 16)[1]).collate(rows)
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
