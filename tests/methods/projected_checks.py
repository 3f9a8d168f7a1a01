"""What Fira and GaLore have in common: given gradients, steps of Adam in a subspace, and checks that hold for both."""

import copy
import math
import warnings

import pytest
import torch

from palimpsest.optim._splitter import Leading

DOUBLE = torch.float64
SHAPES = [(6, 4), (4, 6), (5, 5)]
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


MODEL = {"h.attn.weight": (6, 5), "h.attn.bias": (6,), "h.mlp.small.weight": (4, 9), "embed.weight": (9, 6)}


def model():
    return {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in MODEL.items()}


def full_rank_is_adam_in_the_rotated_basis(method, shape):
    grads, rank = gradients(shape, 5), min(shape)
    found, state = walk(method, shape, grads, rank=rank, alpha=1.0, lr=0.02)
    basis = state["chosen"]
    tall = shape[0] >= shape[1]
    turned = adam_by_hand([g @ basis.T if tall else basis.T @ g for g in grads], 0.02)
    torch.testing.assert_close(found, turned @ basis if tall else basis @ turned, rtol=0, atol=1e-6)
    return state


def with_the_identity_as_basis_it_is_adam(method, shape, monkeypatch):
    identity = classmethod(lambda cls, g, size, _: cls(torch.eye(size, dtype=DOUBLE), g.shape))
    monkeypatch.setattr(Leading, "refresh", identity)
    grads = gradients(shape, 6)
    found, _ = walk(method, shape, grads, rank=min(shape), alpha=1.0, lr=0.02, weight_decay=0.1)
    torch.testing.assert_close(found, adam_by_hand(grads, 0.02, decay=0.1), rtol=1e-12, atol=1e-12)


def what_is_not_split_takes_steps_of_adam(method):
    grads = gradients((6, 4), 6)
    weight = torch.nn.Parameter(torch.zeros(6, 4, dtype=DOUBLE))
    optimizer = method([{"params": [weight], "project": False}], lr=0.02, weight_decay=0.1)
    for gradient in grads:
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), adam_by_hand(grads, 0.02, decay=0.1), rtol=1e-12, atol=1e-12)


def the_size_of_gradients_does_not_matter(method, shape):
    grads = gradients(shape, 5)
    ends = [walk(method, shape, [c * g for g in grads], rank=2, eps=1e-30)[0] for c in (1.0, 1e3)]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-8)


def the_basis_changes_every_gap_and_the_moments_stay(method):
    seen = []
    walk(method, (6, 4), gradients((6, 4), 9), lambda s: seen.append(copy.deepcopy(dict(s))), rank=2, update_gap=4)
    for step in range(1, 9):
        changed = not torch.equal(seen[step]["chosen"], seen[step - 1]["chosen"])
        assert changed == (step in (4, 8)), step
    part = Leading(seen[4]["chosen"], torch.Size((6, 4))).down(gradients((6, 4), 9)[4])
    torch.testing.assert_close(seen[4]["exp_avg"], 0.9 * seen[3]["exp_avg"] + 0.1 * part)
    assert int(seen[8]["step"]) == 9


def size_of_the_state(method, more):
    _, wide = walk(method, (8, 20), gradients((8, 20), 2), rank=3)
    _, tall = walk(method, (20, 8), gradients((20, 8), 2), rank=3)
    for state in (wide, tall):
        assert sum(v.numel() for v in state.values()) == 8 * 3 + 2 * 20 * 3 + 1 + more  # one more: the count of steps


def matrices_are_found_by_name_and_size(method):
    with pytest.warns(UserWarning, match=r"such as h\.mlp\.small\.weight \(1 in all\), .* the rank 4; lower"):
        optimizer = method(model().items(), rank=4)
    assert {g["project"]: g["param_names"] for g in optimizer.param_groups} == {
        True: ["h.attn.weight"],
        False: ["h.attn.bias", "h.mlp.small.weight", "embed.weight"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = method(model().items(), rank=4, modules=("embed",))
    assert optimizer.param_groups[0]["param_names"] == ["embed.weight"]


def matrices_of_one_shape_move_as_each_alone(make):
    """``make`` has groups made an optimizer; one of the matrices has no gradient at a step, so that it lags behind."""
    shapes = [(6, 4), (6, 4), (4, 6), (6, 4), (4, 6), (6, 4)]
    grads = [gradients(shape, 7, seed) for seed, shape in enumerate(shapes)]
    scales = (1.0, 10.0, 1e-2, 3.0, 1.0, 1e-4)
    ends = []
    for alone in (False, True):
        weights = [torch.nn.Parameter(torch.zeros(shape, dtype=DOUBLE)) for shape in shapes]
        optimizers = [make(split(w)) for w in weights] if alone else [make([{"params": weights, "project": True}])]
        for step in range(7):
            for i, (weight, own) in enumerate(zip(weights, grads)):
                weight.grad = None if (i, step) == (3, 2) else own[step] * scales[i] * (1 + step) ** (i % 3)
            for optimizer in optimizers:
                optimizer.step()
        ends.append(weights)
    for together, single in zip(*ends):
        torch.testing.assert_close(together, single, rtol=1e-9, atol=1e-12)


def refusals(method):
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
