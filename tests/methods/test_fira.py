"""Fira and GaLore against the figures of Fira's card: full rank, orthogonality, limiter, scaling, state, refusals."""

import copy
import itertools
import math

import pytest
import torch

from palimpsest.optim import Fira, GaLore
from palimpsest.optim._splitter import Leading
from palimpsest.optim.fira import growth_limit, scaling

DOUBLE = torch.float64
SHAPES = [(6, 4), (4, 6), (5, 5)]
both = pytest.mark.parametrize("method", [Fira, GaLore])
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


def gradients(shape, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=DOUBLE) for _ in range(steps)]


def split(weight, **own):
    return [{"params": [weight], "project": True, **own}]


def walk(method, shape, grads, watch=None, **settings):
    """The weight after steps along given gradients, from zero, and the optimizer."""
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=DOUBLE))
    optimizer = method(split(weight), **settings)
    for gradient in grads:
        weight.grad = gradient
        optimizer.step()
        if watch is not None:
            watch(optimizer.state[weight])
    return weight.detach(), optimizer.state[weight]


def adam_by_hand(grads, lr, betas=(0.9, 0.999), eps=1e-6, decay=0.0):
    """The first releases of transformers: eps beside the uncorrected root, decay after the step."""
    weight, first, second = (torch.zeros_like(grads[0]) for _ in range(3))
    for t, g in enumerate(grads, 1):
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        size = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        weight = (weight - size * first / (second.sqrt() + eps)) * (1 - lr * decay)
    return weight


# 1. At full rank nothing is left over


@both
@shaped
def test_full_rank_is_adam_in_the_rotated_basis(method, shape):
    grads, rank = gradients(shape, 5), min(shape)
    found, state = walk(method, shape, grads, rank=rank, alpha=1.0, lr=0.02)
    basis = state["chosen"]
    tall = shape[0] >= shape[1]
    turned = adam_by_hand([g @ basis.T if tall else basis.T @ g for g in grads], 0.02)
    torch.testing.assert_close(found, turned @ basis if tall else basis @ turned, rtol=0, atol=1e-6)
    if method is Fira:
        assert float(state["residual_norm"]) < 1e-5


@both
@shaped
def test_with_the_identity_as_basis_it_is_adam(method, shape, monkeypatch):
    identity = classmethod(lambda cls, g, size, _: cls(torch.eye(size, dtype=DOUBLE), g.shape))
    monkeypatch.setattr(Leading, "refresh", identity)
    grads = gradients(shape, 6)
    found, _ = walk(method, shape, grads, rank=min(shape), alpha=1.0, lr=0.02, weight_decay=0.1)
    torch.testing.assert_close(found, adam_by_hand(grads, 0.02, decay=0.1), rtol=1e-12, atol=1e-12)


@both
def test_what_is_not_split_takes_steps_of_adam(method):
    grads = gradients((6, 4), 6)
    weight = torch.nn.Parameter(torch.zeros(6, 4, dtype=DOUBLE))
    optimizer = method([{"params": [weight], "project": False}], lr=0.02, weight_decay=0.1)
    for gradient in grads:
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), adam_by_hand(grads, 0.02, decay=0.1), rtol=1e-12, atol=1e-12)


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


@shaped
def test_galore_applies_nothing_outside(shape):
    found, state = walk(GaLore, shape, gradients(shape, 4), rank=2, lr=0.1)
    basis = state["chosen"]
    along = basis.T @ basis if shape[0] >= shape[1] else basis @ basis.T
    inside = found @ along if shape[0] >= shape[1] else along @ found
    torch.testing.assert_close(inside, found, rtol=0, atol=1e-12)


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
    expected = -(q.up(inside.sign()) + phi * q.residual(gradient, inside))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@both
@shaped
def test_the_size_of_gradients_does_not_matter(method, shape):
    grads = gradients(shape, 5)
    ends = [walk(method, shape, [c * g for g in grads], rank=2, eps=1e-30)[0] for c in (1.0, 1e3)]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-8)


# 6. When the basis changes


@both
def test_the_basis_changes_every_gap_and_the_moments_stay(method):
    seen = []
    walk(method, (6, 4), gradients((6, 4), 9), lambda s: seen.append(copy.deepcopy(dict(s))), rank=2, update_gap=4)
    for step in range(1, 9):
        changed = not torch.equal(seen[step]["chosen"], seen[step - 1]["chosen"])
        assert changed == (step in (4, 8)), step
    part = Leading(seen[4]["chosen"], torch.Size((6, 4))).down(gradients((6, 4), 9)[4])
    torch.testing.assert_close(seen[4]["exp_avg"], 0.9 * seen[3]["exp_avg"] + 0.1 * part)
    assert int(seen[8]["step"]) == 9


# 7. State


@pytest.mark.parametrize(("method", "more"), [(GaLore, 0), (Fira, 1)])
def test_size_of_the_state(method, more):
    _, wide = walk(method, (8, 20), gradients((8, 20), 2), rank=3)
    _, tall = walk(method, (20, 8), gradients((20, 8), 2), rank=3)
    for state in (wide, tall):
        assert sum(v.numel() for v in state.values()) == 8 * 3 + 2 * 20 * 3 + 1 + more  # one more: the count of steps


# 8. What is split, and what is refused

MODEL = {"h.attn.weight": (6, 5), "h.attn.bias": (6,), "h.mlp.small.weight": (4, 9), "embed.weight": (9, 6)}


def model():
    return {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in MODEL.items()}


@both
def test_matrices_are_found_by_name_and_size(method):
    optimizer = method(model().items(), rank=4)
    assert {g["project"]: g["param_names"] for g in optimizer.param_groups} == {
        True: ["h.attn.weight"],
        False: ["h.attn.bias", "h.mlp.small.weight", "embed.weight"],
    }
    optimizer = method(model().items(), rank=4, modules=("embed",))
    assert optimizer.param_groups[0]["param_names"] == ["embed.weight"]


@both
def test_refusals(method):
    weight = torch.nn.Parameter(torch.zeros(6, 5))
    with pytest.raises(ValueError, match=r"rank must be at least 1, not 0\."):
        method(split(weight), rank=0)
    with pytest.raises(ValueError, match=r"Parameter 0 has the shape \(6, 5\), too small for the rank 6; lower"):
        method(split(weight), rank=6)
    with pytest.raises(ValueError, match=r"h\.attn\.bias has the shape \(6,\), and only matrices can be split"):
        method([{"params": model().items(), "project": True}], rank=2)
    with pytest.raises(ValueError, match=r"alpha must be above 0"):
        method(split(weight), rank=2, alpha=0.0)
    with pytest.raises(ValueError, match=r"update_gap must be at least 1"):
        method(split(weight), rank=2, update_gap=0)
    with pytest.raises(ValueError, match=r"finds no matrix to split: none .* sides above the rank 5\. Give named"):
        method(model().items(), rank=5)
    with pytest.raises(ValueError, match=r"finds no matrix to split"):
        method(list(model().values()), rank=2)
    if method is Fira:
        with pytest.raises(ValueError, match=r"gamma must be at least 1"):
            Fira(split(weight), rank=2, gamma=0.9)


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
