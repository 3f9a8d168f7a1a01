"""KL to the reference against torch.nn.functional.kl_div and hand figures."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objective import evaluate, on
from palimpsest.objectives.kl_to_reference import KLToReference, kl_divergence
from palimpsest.reference import Copy
from palimpsest.zoo.models import tiny_llama


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    rows = [{"prompt": "q", "completion": " short"}, {"prompt": "quest", "completion": " a longer answer"}]
    (batch,) = CausalLM(tokenizer).roles(retain=rows).window(0, 2, seed=0)
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model, moved, batch


def test_by_hand():
    p, q = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-15)
    assert kl_divergence(p.log(), p.log()).item() == 0


def test_entries_that_the_reference_never_says_count_nothing():
    p, q = torch.tensor([0.0, 1.0], requires_grad=False), torch.tensor([0.5, 0.5], requires_grad=True)
    loss = kl_divergence(p.log(), q.log())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.isfinite(q.grad).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_mean_over_scored_positions_against_torch(language, direction, temperature):
    model, moved, batch = language
    loss = evaluate(on("retain", KLToReference(direction, temperature)), moved, batch, reference=Copy(model)).total
    inputs = {k: batch["retain"][k] for k in ("input_ids", "attention_mask")}
    scored = batch["retain"]["labels"][:, 1:] != -100
    own, ref = ((m(**inputs).logits[:, :-1][scored] / temperature).log_softmax(-1) for m in (moved, model))
    target, given = (ref, own) if direction == "forward" else (own, ref)
    expected = F.kl_div(given, target, log_target=True, reduction="batchmean")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    assert float(loss.detach()) > 1e-3


def test_zero_with_zero_gradient_at_the_reference(language):
    model, _, batch = language
    loss = evaluate(on("retain", KLToReference()), model, batch, reference=Copy(model)).total
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert abs(float(loss.detach())) < 1e-6
    assert max(float(g.abs().max()) for g in gradients) < 1e-6


def test_the_gradient_goes_to_the_model_alone(language):
    model, moved, batch = language
    reference = Copy(model)
    evaluate(on("retain", KLToReference("reverse")), moved, batch, reference=reference).total.backward()
    assert all(p.grad is None for p in reference.module.parameters())
    moved.zero_grad()


def test_a_missing_reference_is_named(language):
    model, _, batch = language
    with pytest.raises(ValueError, match="retain/kl_to_reference needs a reference model"):
        evaluate(on("retain", KLToReference()), model, batch)


def test_a_temperature_is_above_0():
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        KLToReference(temperature=0.0)
