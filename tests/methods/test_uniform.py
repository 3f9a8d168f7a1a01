"""KL from the uniform distribution by hand and against torch, and which positions count."""

import pytest
import torch
import torch.nn.functional as F

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objective import evaluate, on
from palimpsest.objectives.uniform import Uniform, divergence_from_uniform
from palimpsest.views import LabelView
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64


def test_by_hand():
    logits = torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE).log().requires_grad_()
    loss = divergence_from_uniform(logits)
    loss.backward()
    assert loss.item() == pytest.approx(0.324287, abs=1e-6)
    assert logits.grad.tolist() == pytest.approx([0.7 - 1 / 3, 0.2 - 1 / 3, 0.1 - 1 / 3], abs=1e-12)


def test_against_torch():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 3
    expected = F.kl_div(logits.log_softmax(-1), torch.full((6, 11), 1 / 11, dtype=DOUBLE), reduction="batchmean")
    torch.testing.assert_close(divergence_from_uniform(logits).mean(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_where_flat_and_finite_where_peaked(dtype):
    flat = torch.full((2, 7), 3.0, dtype=dtype)
    torch.testing.assert_close(
        divergence_from_uniform(flat),
        torch.zeros(2, dtype=dtype),
        atol=2e-2 if dtype == torch.bfloat16 else 1e-6,
        rtol=0,
    )
    peaked = torch.tensor([200.0, 0.0, -200.0, 0.0, 0.0], dtype=dtype)  # softmax().log() is infinite here
    assert divergence_from_uniform(peaked).item() == pytest.approx(200 - torch.tensor(5.0).log().item(), rel=1e-2)


def test_adding_a_constant_changes_nothing():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    torch.testing.assert_close(divergence_from_uniform(logits + 5), divergence_from_uniform(logits))


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    rows = [{"prompt": "who is it", "completion": " me"}, {"prompt": "why", "completion": " because of that"}]
    (batch,) = CausalLM(tokenizer).roles(retain=rows).window(0, 2, seed=0)
    return model, batch


@pytest.mark.parametrize("positions", ["attended", "scored"])
def test_positions_against_a_loop(language, positions):
    model, batch = language
    found = evaluate(on("retain", Uniform(positions)), model, batch).total.detach()
    labels, seen = batch["retain"]["labels"], batch["retain"]["attention_mask"]
    rows, counted = [], []
    for i in range(2):
        length = int(seen[i].sum())
        logp = model(batch["retain"]["input_ids"][i : i + 1, :length]).logits[0].detach().log_softmax(-1)
        values = [
            -torch.tensor(float(logp.shape[-1])).log() - logp[t].mean()
            for t in range(length - 1)
            if positions == "attended" or labels[i, t + 1] != -100
        ]
        counted.append(len(values))
        rows.append(torch.stack(values).mean())
    torch.testing.assert_close(found, torch.stack(rows).mean(), rtol=1e-4, atol=1e-6)
    assert int(seen.sum()) < seen.numel(), "without padding the test could not tell whether it counts"
    assert (sum(counted) == int(seen.sum()) - 2) == (positions == "attended")


def test_training_flattens_the_model(language):
    import copy

    model, batch = copy.deepcopy(language[0]), language[1]
    with torch.no_grad():
        model.model.norm.weight.mul_(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = evaluate(on("retain", Uniform()), model, batch).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_a_classifier_has_one_value_a_row():
    logits = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]], dtype=DOUBLE).log()
    found = Uniform()(LabelView({"labels": torch.tensor([0, 0])}, logits))
    assert found.tolist() == pytest.approx([0.324287, 0.0], abs=1e-6)
