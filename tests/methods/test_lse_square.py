"""The squared log-sum-exp against full logits: values, gradients, capped and shifted heads, no logits made."""

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.lse_square import LSESquare, log_sum_exp
from palimpsest.views import Head, LabelView, TokenOutputs, TokenView
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64
LABELS = torch.tensor([[0, 4, -100, 7, 29, 1], [2, 2, 2, -100, -100, -100]])
BATCH = {"input_ids": LABELS.clamp_min(0), "labels": LABELS, "attention_mask": torch.ones_like(LABELS)}


def normal(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype).requires_grad_()


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_against_full_logits(softcap, bias, dtype, monkeypatch):
    hidden, weight = normal(2, 6, 4, seed=1, dtype=dtype), normal(30, 4, seed=2, dtype=dtype)
    offset = normal(30, seed=3, dtype=dtype) if bias else None
    logits = hidden @ weight.T * 0.5 + (0 if offset is None else offset)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = LSESquare()(TokenView(BATCH, TokenOutputs(logits=logits)))
    by_hand = torch.where(LABELS[:, 1:] != -100, logits[:, :-1].exp().sum(-1).log().square(), 0.0)
    torch.testing.assert_close(expected, by_hand, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(TokenView, "logits", property(lambda _: pytest.fail("logits were made")))
    view = TokenView(BATCH, TokenOutputs(hidden, Head(weight, offset, softcap, 0.5)))
    found = LSESquare()(view)
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-5}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    leaves = [hidden, weight] + ([offset] if bias else [])
    for a, b in zip(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)):
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance)


def test_of_a_classifier():
    logits = normal(3, 5)
    view = LabelView({"labels": torch.tensor([0, 1, 2])}, logits)
    torch.testing.assert_close(LSESquare()(view), logits.exp().sum(1).log().square())


def test_gradient_of_the_log_sum_exp_is_the_softmax():
    """Oracle of the kernel's card: d sum(lse) / d hidden = softmax(z) C."""
    hidden, weight = normal(2, 6, 4, seed=1), normal(30, 4, seed=2)
    view = TokenView(BATCH, TokenOutputs(hidden, Head(weight)))
    (gradient,) = torch.autograd.grad(log_sum_exp(view).sum(), hidden)
    by_hand = ((hidden @ weight.T).softmax(-1) @ weight)[:, :-1] * view.mask.unsqueeze(-1)
    torch.testing.assert_close(gradient[:, :-1], by_hand, rtol=1e-10, atol=1e-10)
    assert not gradient[:, -1].any()


def test_it_pulls_all_logits_together_and_leaves_the_distribution_alone():
    """One term moves what the other cannot see."""
    logits = torch.full((1, 5), 3.0, dtype=DOUBLE, requires_grad=True)
    view = LabelView({"labels": torch.tensor([0])}, logits)
    (gradient,) = torch.autograd.grad(LSESquare()(view).sum(), logits)
    assert (gradient > 0).all() and float(gradient.std()) < 1e-12
    (other,) = torch.autograd.grad(view.logp.sum(), logits)
    assert abs(float(other.sum())) < 1e-12


def test_beside_cross_entropy_on_a_language_model():
    model, tokenizer = tiny_llama(300, layers=1, width=32)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where", "completion": " over there"}]
    (batch,) = CausalLM(tokenizer).roles(task=rows).window(0, 2, seed=0)
    losses = evaluate(on("task", CrossEntropy()) + 1e-4 * on("task", LSESquare()), model, batch)
    labels = batch["task"]["labels"]
    logits = model(input_ids=batch["task"]["input_ids"], attention_mask=batch["task"]["attention_mask"]).logits
    scored = labels[:, 1:] != -100
    by_hand = logits[:, :-1][scored].logsumexp(-1).square().mean()
    torch.testing.assert_close(losses.parts["task/lse_square"], by_hand.detach(), rtol=1e-4, atol=1e-4)
