"""The threshold margin over a batch, and its dynamic weight, against the figures of GeRe's card."""

import copy
import math

import pytest
import torch
from stored_states import (
    TASK,
    TEXTS,
    by_hand,
    loss_of,
    moved,
    negative_deviations_are_refused,
    nothing_for_the_base_and_something_for_another,
    values,
)

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.balanced_threshold_margin import BalancedThresholdMargin, dynamic_weight
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.threshold_margin import ThresholdMargin
from palimpsest.zoo.models import tiny_llama


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    return model, CausalLM(tokenizer)


@pytest.fixture
def roles(language):
    return language[1].roles(replay=TEXTS, task=TASK)


def test_nothing_to_do_for_the_base_and_something_for_another(language, roles):
    nothing_for_the_base_and_something_for_another(BalancedThresholdMargin(), language[0], roles)


def test_the_batch_is_divided_by_all_its_violations(language, roles):
    state, other = ThresholdMargin().prepare(language[0], roles, "replay"), moved(language[0])
    texts = by_hand(other, roles, state)
    expected = sum(total for total, _ in texts) / sum(number for _, number in texts)
    found = float(loss_of(BalancedThresholdMargin(dynamic=False), other, roles, state).detach())
    assert found == pytest.approx(expected, rel=1e-4)
    single = [total / max(number, 1) for total, number in texts]
    weighted = sum(s * n for s, (_, n) in zip(single, texts)) / sum(n for _, n in texts)
    assert found == pytest.approx(weighted, rel=1e-4)


def test_dynamic_weight_makes_both_terms_equal(language, roles):
    state, other = ThresholdMargin().prepare(language[0], roles, "replay"), moved(language[0])
    (batch,) = roles.window(0, 4, seed=0)
    half = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
    cross_entropy = float(evaluate(half, other, batch).total.detach())
    assert float(loss_of(BalancedThresholdMargin(dynamic=True), other, roles, state).detach()) == pytest.approx(
        cross_entropy, rel=1e-5
    )
    fixed, balanced = (
        torch.autograd.grad(loss_of(BalancedThresholdMargin(dynamic=d), other, roles, state), list(other.parameters()))
        for d in (False, True)
    )
    margin = float(loss_of(BalancedThresholdMargin(dynamic=False), other, roles, state).detach())
    for a, b in zip(fixed, balanced):  # the weight is a constant: it only scales
        torch.testing.assert_close(a * (cross_entropy / margin), b, rtol=1e-3, atol=1e-6)


def test_dynamic_weight_is_capped_and_never_infinite():
    weight = dynamic_weight(values(1.0), values(1e-6), 1e3)
    assert weight.tolist() == [1e3]
    assert dynamic_weight(values(1.0), values(0.0), math.inf).tolist() == [1e8]
    ce = values(2.0).requires_grad_()
    assert not dynamic_weight(ce, ce * 0.5, 1e3).requires_grad


def test_a_coupled_loss_refuses_micro_batches(language, roles):
    total = on("task", CrossEntropy()) + on(("replay", "task"), BalancedThresholdMargin(dynamic=True))
    with pytest.raises(ValueError, match=r"set train\.accumulation to 1"):
        fit(copy.deepcopy(language[0]), roles, total, Training(steps=1, batch=4, accumulation=2))


def test_fields():
    negative_deviations_are_refused(BalancedThresholdMargin)
    with pytest.raises(ValueError, match="cap must be above 0"):
        BalancedThresholdMargin(cap=0.0)
