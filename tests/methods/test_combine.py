"""Gradients of groups of terms: the projection against its definition, and through a real step."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.combine import ConeProjection, OneSidedProjection, Sum
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


# The cone of several protected roles


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_cone_against_every_choice_of_constraints(seed: int, margin: float) -> None:
    """The least value of the dual over all sets of factors that may lie above the margin."""
    g, k = normal(6, seed=seed), normal(4, 6, seed=seed + 100)
    matrix, linear = k @ k.T + 1e-3 * torch.eye(4, dtype=torch.float64), k @ g
    best, wanted = torch.inf, torch.zeros(4, dtype=torch.float64)
    for chosen in itertools.product([False, True], repeat=4):
        free, v = torch.tensor(chosen), torch.full((4,), margin, dtype=torch.float64)
        if any(chosen):
            v[free] = torch.linalg.solve(matrix[free][:, free], -(linear + matrix[:, ~free] @ v[~free])[free])
        value = float(v @ matrix @ v / 2 + linear @ v)
        if bool((v >= margin - 1e-12).all()) and value < best:
            best, wanted = value, v
    assert bool((linear < 0).any()), "nothing to project; draw another"
    (found,) = ConeProjection(("a", "b", "c", "d"), margin).merge([[g], *([row] for row in k)])
    torch.testing.assert_close(found, g + wanted @ k, rtol=1e-9, atol=1e-9)
    assert margin or bool((k @ found > -0.05).all())


def test_one_protected_role_without_a_margin_is_the_one_sided_projection() -> None:
    g, k = [100 * normal(3), 100 * normal(2, seed=1)], [-100 * normal(3), 100 * normal(2, seed=2)]
    assert sum(float((a * b).sum()) for a, b in zip(g, k)) < 0
    cone, side = ConeProjection(("a",), 0.0).merge([g, k]), OneSidedProjection(follow=False).merge([g, k])
    for one, other in zip(cone, side):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_cone_leaves_a_gradient_alone_that_conflicts_with_none() -> None:
    g = [normal(5)]
    assert torch.equal(ConeProjection(("a", "b"), 0.5).merge([g, [g[0] + 1e-3], [0 * g[0]]])[0], g[0])


def test_groups_of_the_cone() -> None:
    total = on("task", CrossEntropy()) + on("one", CrossEntropy()) + on("two", CrossEntropy())
    groups = ConeProjection(("one", "two")).groups(total)
    assert groups == [("task/cross_entropy",), ("one/cross_entropy",), ("two/cross_entropy",)]
    for protect, said in ((("one", "three"), "a term on each"), (("task", "one", "two"), "one elsewhere")):
        with pytest.raises(ValueError, match=said):
            ConeProjection(protect).groups(total)
    for fields, said in ((((), 0.5), "names the roles"), ((("a", "a"), 0.5), "each once"), ((("a",), -1.0), "margin")):
        with pytest.raises(ValueError, match=said):
            ConeProjection(*fields)
