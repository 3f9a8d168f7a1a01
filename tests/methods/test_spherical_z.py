"""The Z-loss against the figures of its card, and its moments of a language model's logits that are never made."""

import math

import pytest
import torch
import torch.nn.functional as F

from palimpsest.objectives.spherical_z import (
    SphericalZ,
    moments_of,
    spherical_softmax_loss,
    squared_error_loss,
    taylor_softmax_loss,
    z_loss,
)
from palimpsest.views import Head, LabelView, Moments, TokenOutputs, TokenView

DOUBLE = torch.float64


def of(logits, label=0):
    return Moments.of(logits, torch.full(logits.shape[:-1], label))


def scores(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# 1. By hand


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_by_hand(dtype):
    moments = of(torch.tensor([[2.0, 0.0, -1.0, -1.0]], dtype=dtype))
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert float(moments.mean) == 0 and float(moments.variance.sqrt()) == pytest.approx(1.224745, abs=tolerance)
    assert float(z_loss(moments)) == pytest.approx(0.178434, abs=tolerance)
    assert float(z_loss(moments, 2.0, 1.0)) == pytest.approx(0.124195, abs=tolerance)


# 2. Invariances


def test_shift_and_scale_do_not_matter():
    logits = scores(5, 9).requires_grad_()
    plain = z_loss(of(logits, 3))
    for scale, shift in ((3.0, 0.0), (1.0, -40.0), (0.01, 7.0)):
        torch.testing.assert_close(z_loss(of(logits * scale + shift, 3)), plain, rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(plain.sum(), logits)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(5, dtype=DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close((gradient * logits).sum(1), torch.zeros(5, dtype=DOUBLE), rtol=0, atol=1e-9)


def test_z_is_bounded_by_the_number_of_classes():
    one_hot = torch.zeros(1, 26, dtype=DOUBLE)
    one_hot[0, 4] = 100.0
    assert float(z_loss(of(one_hot, 4), 1.0, 8.0)) == pytest.approx(math.log1p(math.exp(8 - 5)), abs=1e-6)


# 4. The family, and gradients


def test_squared_error_is_that_against_the_indicator():
    logits, labels = scores(4, 6), torch.tensor([0, 5, 2, 2])
    by_hand = (logits - F.one_hot(labels, 6)).square().sum(1)
    torch.testing.assert_close(squared_error_loss(Moments.of(logits, labels)), by_hand)


def test_softmax_like_members_by_hand():
    logits, labels = scores(4, 6), torch.tensor([0, 5, 2, 2])
    series = 1 + logits + logits.square() / 2
    by_hand = -(series / series.sum(1, keepdim=True)).gather(1, labels[:, None]).log().squeeze(1)
    torch.testing.assert_close(taylor_softmax_loss(Moments.of(logits, labels)), by_hand)
    squares = logits.square() + 0.01
    by_hand = -(squares / squares.sum(1, keepdim=True)).gather(1, labels[:, None]).log().squeeze(1)
    torch.testing.assert_close(spherical_softmax_loss(Moments.of(logits, labels), 0.01), by_hand)


@pytest.mark.parametrize("member", ["z", "squared_error", "taylor_softmax", "spherical_softmax"])
def test_gradients(member):
    labels = torch.tensor([0, 3, 1])
    method = SphericalZ(2.0, 1.0, member=member)
    assert torch.autograd.gradcheck(
        lambda x: method(LabelView({"labels": labels}, x)), scores(3, 5).requires_grad_(), atol=1e-6
    )


def test_equal_scores_have_no_gradient_and_no_nan():
    for value in (0.0, 3.0):
        logits = torch.full((2, 5), value, requires_grad=True)
        loss = z_loss(of(logits))
        loss.sum().backward()
        assert loss.tolist() == pytest.approx([math.log(2)] * 2) and torch.isfinite(logits.grad).all()


# 5. Limits of the slope


def test_limits_of_the_slope():
    moments = of(scores(50, 7), 2)
    z = (moments.target - moments.mean) / moments.variance.sqrt()
    torch.testing.assert_close(z_loss(moments, 1e4, 0.3), F.relu(0.3 - z), rtol=0, atol=1e-4)
    small = 1e-4
    torch.testing.assert_close(z_loss(moments, small, 0.3) - math.log(2) / small, (0.3 - z) / 2, rtol=0, atol=1e-3)


# Language models


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_moments_without_logits(bias, scale, monkeypatch):
    """From the mean and covariance of the head's rows, where the logits lie far from 0."""
    hidden, weight = scores(2, 6, 4, seed=1).requires_grad_(), (scores(30, 4, seed=2) + 5).requires_grad_()
    offset = scores(30, seed=3).requires_grad_() if bias else None
    labels = torch.tensor([[0, 4, -100, 7, 29, 1], [2, 2, 2, -100, -100, -100]])
    batch = {"input_ids": labels.clamp_min(0), "labels": labels, "attention_mask": torch.ones_like(labels)}
    apart = TokenView(batch, TokenOutputs(hidden, Head(weight, offset, None, scale)))
    whole = hidden @ weight.T * scale + (0 if offset is None else offset)
    plain = TokenView(batch, TokenOutputs(logits=whole))
    found, expected = SphericalZ(1.0, 2.0)(apart), SphericalZ(1.0, 2.0)(plain)
    assert found.shape == (2, 5) and not found[~apart.mask].any()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    leaves = [hidden, weight] + ([offset] if bias else [])
    for a, b in zip(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    monkeypatch.setattr(TokenView, "logits", property(lambda _: pytest.fail("logits were made")))
    SphericalZ()(TokenView(batch, apart.outputs))


def test_a_capped_head_needs_its_logits():
    hidden, weight = scores(1, 4, 3, seed=1).float(), scores(8, 3, seed=2).float() * 3
    labels = torch.tensor([[0, 4, 2, 7]])
    batch = {"input_ids": labels, "labels": labels, "attention_mask": torch.ones_like(labels)}
    view = TokenView(batch, TokenOutputs(hidden, Head(weight, None, 2.0)))
    capped = 2 * torch.tanh(hidden @ weight.T / 2)
    torch.testing.assert_close(
        moments_of(view).variance, Moments.of(capped[0, :-1], labels[0, 1:]).variance, rtol=1e-5, atol=1e-5
    )


def test_single_precision_keeps_its_digits_far_from_zero():
    """All logits near 1000, their spread near 1: the difference of mean square and square of the mean has no digits."""
    hidden = torch.ones(1, 3, 4)
    weight = 250 + scores(40, 4, seed=2).float() / 4
    labels = torch.tensor([[0, 4, 7]])
    batch = {"input_ids": labels, "labels": labels, "attention_mask": torch.ones_like(labels)}
    found = moments_of(TokenView(batch, TokenOutputs(hidden, Head(weight)))).variance
    exact = Moments.of(hidden.double()[0, :-1] @ weight.double().T, labels[0, 1:]).variance
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


# What is refused


@pytest.mark.parametrize("fields", [{"slope": 0.0}, {"slope": math.nan}, {"slope": -1.0}])
def test_slope_must_be_positive(fields):
    with pytest.raises(ValueError, match="slope must be above 0"):
        SphericalZ(**fields)


def test_epsilon_must_be_positive():
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        SphericalZ(epsilon=0.0)
