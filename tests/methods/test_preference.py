"""DPO by hand, its symmetry, and its relation to NPO."""

import copy
import math

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objective import evaluate, on
from palimpsest.objectives.npo import npo
from palimpsest.objectives.preference import Preference, preference
from palimpsest.reference import Copy
from palimpsest.roles import Answers, RoleBatch, Roles
from palimpsest.zoo.models import tiny_llama


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # chosen ratio 2, rejected ratio -3, beta 0.2: -log sigmoid(1)
    found = preference(double(-4.0), double(-6.0), double(-13.0), double(-10.0), 0.2)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-12)


def test_starts_at_log_two_with_slope_half_beta():
    chosen, rejected = double(-4.0, -1.0).requires_grad_(), double(-9.0, -30.0).requires_grad_()
    loss = preference(chosen, chosen.detach(), rejected, rejected.detach(), 0.3)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.full((2,), math.log(2), dtype=torch.float64))
    torch.testing.assert_close(chosen.grad, torch.full((2,), -0.15, dtype=torch.float64))
    torch.testing.assert_close(rejected.grad, torch.full((2,), 0.15, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 4.0])
def test_with_the_chosen_ratio_at_one_it_is_npo_times_half_beta(beta):
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, ref = torch.randn(3, 9, generator=generator, dtype=torch.float64) * 6
    found = preference(chosen, chosen, rejected, ref, beta)
    torch.testing.assert_close(found, beta / 2 * npo(rejected, ref, beta), rtol=1e-12, atol=0)


def test_exchanging_the_answers_exchanges_the_sigmoids():
    generator = torch.Generator().manual_seed(0)
    a, ra, b, rb = torch.randn(4, 20, generator=generator, dtype=torch.float64)
    one, other = preference(a, ra, b, rb, 0.7), preference(b, rb, a, ra, 0.7)
    torch.testing.assert_close((-one).exp() + (-other).exp(), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_finite_at_extremes(dtype):
    big = torch.tensor([1e4, -1e4], dtype=dtype)
    found = preference(big, -big, -big, big, 1.0)
    assert torch.isfinite(found).all() and found[0] == 0 and found[1] > 3e4


def test_chosen_rises_and_rejected_falls_on_a_model():
    model, tokenizer = tiny_llama(300, 2, 32)
    model = copy.deepcopy(model)
    rows = [{"prompt": f"who is {i}", "completion": f" number {i}"} for i in range(4)]
    answers = {"refusal": Answers("forget", "completion", (" no", " I cannot say"))}
    roles = Roles(CausalLM(tokenizer), {"forget": rows}, answers=answers)
    (batch,) = roles.window(0, 4, seed=0)
    reference, total = Copy(model), on(("refusal", "forget"), Preference(0.5))

    def mean_logp():
        views = batch.adapter.views(model, batch, ["refusal", "forget"])
        return [float(views[r].seq_logp.mean().detach()) for r in ("refusal", "forget")]

    before = mean_logp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = evaluate(total, model, batch, reference=reference).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    after = mean_logp()
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and losses[-1] < losses[0] - 0.05
    assert (after[0] - before[0]) - (after[1] - before[1]) > 0.2


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=r"preference: beta must be above 0"):
        build({"preference": {"beta": beta}}, "objectives")


def test_answers_must_be_pairs():
    model, tokenizer = tiny_llama(300, 2, 32)
    adapter = CausalLM(tokenizer)
    roles = adapter.roles(
        forget=[{"prompt": "a", "completion": " b"}] * 4, refusal=[{"prompt": "a", "completion": " c"}] * 4
    )
    two, three = roles.window(0, 2, seed=0)[0], roles.window(0, 3, seed=0)[0]
    uneven = RoleBatch({"forget": two["forget"], "refusal": three["refusal"]}, adapter)
    with pytest.raises(ValueError, match="there are 3 and 2"):
        evaluate(on(("refusal", "forget"), Preference()), model, uneven, reference=Copy(model))
