"""What FRUGAL and BAdam have in common: weights along given gradients, and checks that hold for both."""

import copy

import pytest
import torch

DOUBLE = torch.float64
SHAPES = {"a": (6, 4), "b": (4, 6), "c": (5, 5), "d": (2, 3)}


def gradients(steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=DOUBLE)  # noqa: E731
    return [{n: draw(s) for n, s in SHAPES.items()} for _ in range(steps)]


def weights(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.nn.Parameter(torch.randn(s, generator=generator, dtype=DOUBLE)) for n, s in SHAPES.items()}


def walk(method, grads, watch=None, **settings):
    """The weights after steps along given gradients, and the optimizer."""
    parameters = weights()
    optimizer = method([{"params": parameters.items(), "project": True}], **settings)
    for step in grads:
        for name, parameter in parameters.items():
            parameter.grad = step[name]
        optimizer.step()
        if watch is not None:
            watch({n: copy.deepcopy(dict(optimizer.state[p])) for n, p in parameters.items()})
    return {n: p.detach() for n, p in parameters.items()}, {n: optimizer.state[p] for n, p in parameters.items()}


def memory_of_blocks(method):
    """One matrix at a time has state, and another after each gap."""
    seen = []
    walk(method, gradients(8), seen.append, update_gap=2, order="ascending")
    for step, states in enumerate(seen):
        active = [n for n, state in states.items() if state]
        assert active == ["abcd"[step // 2]]
        assert all(states[n]["exp_avg"].shape == SHAPES[n] for n in active)


def a_vector_in_a_group_to_be_split_is_refused(method):
    vector = [("h.attn.bias", torch.nn.Parameter(torch.zeros(3)))]
    with pytest.raises(ValueError, match=r"h\.attn\.bias has the shape \(3,\), and only matrices"):
        method([{"params": vector, "project": True}])
