"""Gradients of groups of terms: the projection against its definition, and through a real step."""

from __future__ import annotations

import copy

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.combine import OneSidedProjection, Sum
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.gradient_ascent import GradientAscent
from palimpsest.step import Step
from palimpsest.zoo.models import tiny_llama


def test_projection_removes_exactly_the_conflict() -> None:
    """Over all weights together: the second tensor does not conflict, and moves with the first."""
    g, k = [torch.tensor([1.0, -4.0]), torch.tensor([1.0])], [torch.tensor([1.0, 1.0]), torch.tensor([1.0])]
    merged = OneSidedProjection().merge([g, k])  # <g, k> = -2, <k, k> = 3: g' = g + 2 k / 3
    third = 1 / 3
    torch.testing.assert_close(merged, [torch.tensor([2 + 2 * third, -2 - third]), torch.tensor([2 + 2 * third])])
    alone = OneSidedProjection(follow=False).merge([g, k])
    assert sum(float((a * b).sum()) for a, b in zip(alone, k)) == pytest.approx(0.0, abs=1e-6)


def test_projection_leaves_agreeing_and_zero_gradients_alone() -> None:
    g = [torch.tensor([1.0, 2.0])]
    assert torch.equal(OneSidedProjection(follow=False).merge([g, [torch.tensor([1.0, 0.0])]])[0], g[0])
    assert torch.equal(OneSidedProjection(follow=False).merge([g, [torch.zeros(2)]])[0], g[0])


def test_groups_need_a_protected_and_another_term() -> None:
    total = on("forget", GradientAscent()) + on("retain", CrossEntropy())
    assert OneSidedProjection().groups(total) == [("forget/gradient_ascent",), ("retain/cross_entropy",)]
    with pytest.raises(ValueError, match="protects the role 'old'"):
        OneSidedProjection("old").groups(total)


@pytest.fixture(scope="module")
def setting() -> tuple:
    model, tokenizer = tiny_llama()
    adapter = CausalLM(tokenizer)
    rows = [{"prompt": f"who is {i}? ", "completion": "nobody" * (i + 1)} for i in range(4)]
    return model, adapter.roles(forget=rows, retain=rows), on("forget", GradientAscent()) + on("retain", CrossEntropy())


def gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_with_the_projection_does_not_climb_the_protected_loss(setting: tuple, accumulation: int) -> None:
    """Forget and retain hold the same rows: ascent conflicts wholly, and projected away it leaves retain's descent."""
    start, roles, total = setting
    model, plain = copy.deepcopy(start), copy.deepcopy(start)
    step = Step(total, model, combine=OneSidedProjection())
    batches = roles.window(0, 4, seed=0, accumulation=accumulation)
    counts = step.count(batches)
    for batch in batches:
        step.backward(batch, counts, 0.0, micro=len(batches))
    step.gradients()
    (whole,) = roles.window(0, 4, seed=0)
    evaluate(on("retain", CrossEntropy()), plain, whole).total.backward()
    kept = gradient(plain)
    # retain and forget draw their own orders of the same four rows, so at a batch of four they are the same set
    torch.testing.assert_close(gradient(model), kept, rtol=1e-4, atol=1e-6)


def test_sum_is_one_group(setting: tuple) -> None:
    _, _, total = setting
    assert Sum().groups(total) == [("forget/gradient_ascent", "retain/cross_entropy")]
