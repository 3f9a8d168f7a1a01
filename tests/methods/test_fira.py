"""Fira against the figures of its card: full rank, orthogonality, limiter, scaling, state, refusals."""

import itertools
import math

import projected_checks as checks
import pytest
import torch
from projected_checks import DOUBLE, gradients, shaped, split, walk

from palimpsest.optim import Fira
from palimpsest.optim._splitter import Leading
from palimpsest.optim.fira import growth_limit, scaling

# 1. At full rank nothing is left over


@shaped
def test_full_rank_is_adam_in_the_rotated_basis(shape):
    assert float(checks.full_rank_is_adam_in_the_rotated_basis(Fira, shape)["residual_norm"]) < 1e-5


@shaped
def test_with_the_identity_as_basis_it_is_adam(shape, monkeypatch):
    checks.with_the_identity_as_basis_it_is_adam(Fira, shape, monkeypatch)


def test_what_is_not_split_takes_steps_of_adam():
    checks.what_is_not_split_takes_steps_of_adam(Fira)


# 2. One step by a naive loop, and the rest lies outside of the subspace


@shaped
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_one_step_by_a_naive_loop(shape, alpha):
    (gradient,) = gradients(shape, 1)
    found, state = walk(Fira, shape, [gradient], rank=2, alpha=alpha, lr=0.1)
    tall, basis = shape[0] >= shape[1], state["chosen"]
    g, q = (gradient, basis) if tall else (gradient.T, basis.T)  # rows of g are what phi stands for
    inside = g @ q.T
    direction = 0.1 * inside / ((0.001 * inside**2).sqrt() + 1e-6)
    expected = torch.zeros_like(g)
    for i in range(len(g)):
        phi = direction[i].norm() / (inside[i].norm() + 1e-8)
        rest = g[i] - inside[i] @ q
        assert float((q @ rest).abs().max()) < 1e-6
        expected[i] = -0.1 * math.sqrt(0.001) / 0.1 * (alpha * direction[i] @ q + phi * rest)
    torch.testing.assert_close(found, expected if tall else expected.T, rtol=1e-6, atol=1e-9)


def test_as_released_counts_part_of_the_inside_twice():
    (gradient,) = gradients((6, 4), 1)
    clean, released = (
        walk(Fira, (6, 4), [gradient], rank=2, alpha=0.25, lr=0.1, as_released=r)[0] for r in (False, True)
    )
    basis = Leading.refresh(gradient, 2, torch.Generator()).chosen
    outside = torch.eye(4, dtype=DOUBLE) - basis.T @ basis
    torch.testing.assert_close(clean @ outside, released @ outside, rtol=1e-9, atol=1e-12)
    assert float(((clean - released) @ basis.T).norm()) > 0.1 * float(clean.norm())
    same = [walk(Fira, (6, 4), [gradient], rank=2, alpha=1.0, lr=0.1, as_released=r)[0] for r in (False, True)]
    torch.testing.assert_close(*same, rtol=0, atol=0)


# 3. The limiter


def test_limiter_by_hand():
    stored, before = [], None
    for norm in map(torch.tensor, (1.0, 10.0, 10.0, 0.1)):
        limit = torch.tensor(1.0) if before is None else growth_limit(norm, before, 1.01)
        before = norm * limit
        stored.append(float(before))
    assert stored == pytest.approx([1.0, 1.01, 1.0201, 0.1], rel=1e-6)


def test_norms_grow_by_a_hundredth_a_step_at_most():
    norms = []
    grads = [g * s for g, s in zip(gradients((7, 4), 12), (1, 10, 10, 0.1, 3, 100, 1, 1e-3, 1, 1, 50, 1))]
    walk(Fira, (7, 4), grads, lambda s: norms.append(float(s["residual_norm"])), rank=2)
    growth = [b / a for a, b in itertools.pairwise(norms)]
    assert max(growth) == pytest.approx(1.01, rel=1e-6) and min(growth) < 0.99


@pytest.mark.parametrize("first", ["zero", "of the rank"])
def test_a_first_gradient_without_a_rest_does_not_lock_it_out(first):
    (column,), (row,) = gradients((6, 1), 1), gradients((1, 4), 1, seed=1)
    start = torch.zeros(6, 4, dtype=DOUBLE) if first == "zero" else column @ row
    norms = {}
    for released in (False, True):
        _, state = walk(Fira, (6, 4), [start, *gradients((6, 4), 4)], rank=1, alpha=1.0, as_released=released)
        norms[released] = float(state["residual_norm"])
    assert norms[True] < 1e-6 and norms[False] > 0.1


# 4. and 5. Scaling


def test_scaling_by_hand():
    part, direction = torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [1.0]])
    assert float(scaling(direction, part, 0)) == pytest.approx(0.282843, abs=1e-6)
    torch.testing.assert_close(scaling(direction, part, 1), torch.tensor([[1 / 3], [1 / 4]]))


@shaped
def test_without_averages_the_direction_is_a_sign(shape):
    (gradient,) = gradients(shape, 1)
    found, state = walk(Fira, shape, [gradient], rank=3, alpha=1.0, lr=1.0, betas=(0.0, 0.0), eps=0.0)
    q = Leading(state["chosen"], gradient.shape)
    inside = q.down(gradient)
    phi = math.sqrt(3) / inside.norm(dim=q.dim, keepdim=True)
    expected = -(q.up(inside.sign()) + phi * q.residual_(gradient.clone(), inside))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@shaped
def test_the_size_of_gradients_does_not_matter(shape):
    checks.the_size_of_gradients_does_not_matter(Fira, shape)


# 6. When the basis changes


def test_the_basis_changes_every_gap_and_the_moments_stay():
    checks.the_basis_changes_every_gap_and_the_moments_stay(Fira)


def test_matrices_of_one_shape_move_as_each_alone():
    checks.matrices_of_one_shape_move_as_each_alone(lambda groups: Fira(groups, rank=2, update_gap=3, weight_decay=0.1))


# 7. State


def test_size_of_the_state():
    checks.size_of_the_state(Fira, 1)


# 8. What is split, and what is refused


def test_matrices_are_found_by_name_and_size():
    checks.matrices_are_found_by_name_and_size(Fira)


def test_refusals():
    checks.refusals(Fira)
    with pytest.raises(ValueError, match=r"gamma must be at least 1"):
        Fira(split(torch.nn.Parameter(torch.zeros(6, 5))), rank=2, gamma=0.9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types(dtype):
    """Relative to the longest step, 1e-5 in single precision and 3 % in bfloat16."""
    grads = gradients((8, 5), 4)
    exact, _ = walk(Fira, (8, 5), grads, rank=2, lr=0.1)
    weight = torch.nn.Parameter(torch.zeros(8, 5, dtype=dtype))
    optimizer = Fira(split(weight), rank=2, lr=0.1)
    for gradient in grads:
        weight.grad = gradient.to(dtype)
        optimizer.step()
    assert weight.dtype == dtype
    off = float((weight.detach().double() - exact).abs().max() / exact.abs().max())
    assert off < {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
