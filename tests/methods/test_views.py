"""Blocks of logits give the numbers and the gradients of whole logits."""

import pytest
import torch

from palimpsest import views
from palimpsest.objectives.kl_to_reference import kl_divergence
from palimpsest.views import Head, TokenOutputs, TokenView


def pair(softcap=None, dtype=torch.float32):
    """A view whose hidden states and head take gradients, and a constant one; every third position is not scored."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 50, (3, 9), generator=generator)
    labels[:, ::3] = -100
    batch = {"labels": labels, "attention_mask": torch.ones_like(labels)}

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    own, other = ((draw(3, 9, 8), draw(50, 8)) for _ in range(2))
    return (*own, *(TokenView(batch, TokenOutputs(h, Head(w, softcap=softcap))) for h, w in (own, other)))


@pytest.mark.parametrize("block", [50, 250, 10**6])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_compare_equals_whole_distributions_whatever_the_block(monkeypatch, block, softcap):
    monkeypatch.setattr(views, "BLOCK_LOGITS", block)
    hidden, weight, view, other = pair(softcap)
    mask = view.mask
    expected = torch.where(mask, kl_divergence(other.log_probs.detach(), view.log_probs), 0.0)
    found = view.compare(other, lambda own, ref: kl_divergence(ref, own))
    assert mask.sum() == 18 and found.shape == (3, 8) and bool((found[~mask] == 0).all())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.arange(24.0).view(3, 8)
    gradients = [torch.autograd.grad((f * upstream).sum(), (hidden, weight)) for f in (found, expected)]
    for own, whole in zip(*gradients):
        torch.testing.assert_close(own, whole, rtol=1e-5, atol=1e-5)
    other_weight = other.outputs.head.weight
    again = view.compare(other, lambda own, ref: kl_divergence(ref, own))
    assert torch.autograd.grad(again.sum(), other_weight, allow_unused=True) == (None,)


def test_compare_takes_models_whose_head_is_not_apart(monkeypatch):
    monkeypatch.setattr(views, "BLOCK_LOGITS", 100)
    _, _, view, other = pair()
    bare = TokenView(view.batch, TokenOutputs(logits=view.logits.detach().clone().requires_grad_()))
    found = bare.compare(other, kl_divergence)
    torch.testing.assert_close(found, view.compare(other, kl_divergence), rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert bool(bare.outputs.logits.grad[:, :-1][bare.mask].any(-1).all())


def test_compare_of_rows_without_a_scored_position_is_zero():
    _, _, view, other = pair()
    view.batch["labels"].fill_(-100)
    found = view.compare(other, kl_divergence)
    assert found.shape == (3, 8) and not bool(found.any())
    found.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("few", [0, 10**6], ids=["blocks", "kept"])
def test_logp_of_both_paths_against_log_softmax(monkeypatch, dtype, few):
    """Half precision is raised before the product, so what is left is float32 rounding."""
    monkeypatch.setattr(views, "FEW_LOGITS", few)
    hidden, weight, view, _ = pair(dtype=dtype)
    logits = hidden.double() @ weight.double().T
    whole = logits[:, :-1].log_softmax(-1).gather(-1, view.targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    expected = torch.where(view.mask, whole, 0.0)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(view.logp.double(), expected, rtol=0, atol=tolerance)
    upstream = torch.arange(24.0, dtype=torch.float64).view(3, 8)
    own = torch.autograd.grad((view.logp * upstream).sum(), (hidden, weight))
    direct = torch.autograd.grad((expected * upstream).sum(), (hidden, weight))
    loose = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 0.5}[dtype]  # gradients are of up to 100
    for found, right in zip(own, direct):
        torch.testing.assert_close(
            found.double(), right.double(), rtol=1e-2 if dtype == torch.bfloat16 else 0, atol=loose
        )
