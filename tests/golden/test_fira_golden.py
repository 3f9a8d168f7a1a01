"""Fira and GaLore against trajectories of xichen-fy/Fira@5c28b13 and jiaweizzhao/GaLore@2cc66f8.

Both compute the basis in float32 and leave its signs to the routine, on which what follows a refresh depends; so the
stored basis is put in place of ours, and ours is compared with it up to sign.
"""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.optim import Fira, GaLore
from palimpsest.optim._splitter import Leading

CASES = [
    pytest.param(case, method, id=f"{method.__name__}: {case['what']}")
    for slug, method in (("fira", Fira), ("galore", GaLore))
    for case in json.loads(Path(__file__).with_name(f"{slug}.json").read_text())["cases"]
]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def optimizer_of(case, method, weights):
    """One group a matrix, since ranks may differ; what has no basis is in a group that is not split."""
    params = case["params"]
    alpha = params["alpha" if method is Fira else "scale"]
    ranks = params["rank"] if isinstance(params["rank"], list) else [params["rank"]] * len(weights)
    groups = [{"params": [w], "project": w.ndim == 2, "rank": rank} for w, rank in zip(weights, ranks)]
    own = {"as_released": True} if method is Fira else {}
    return method(
        groups,
        lr=params["lr"],
        weight_decay=params["weight_decay"],
        update_gap=params["update_proj_gap"],
        alpha=alpha,
        betas=tuple(params["betas"]),
        eps=params["eps"],
        **own,
    )


@pytest.mark.parametrize(("case", "method"), CASES)
def test_every_step(case, method, monkeypatch):
    bases = case["outputs"]["basis_at_refresh"]
    split = [basis for basis in bases if basis and basis[0]]
    order = iter([double(basis[k]) for k in range(len(split[0])) for basis in split])
    refresh = Leading.refresh.__func__

    def stored(cls, gradient, size, generator):
        theirs, ours = next(order), refresh(cls, gradient, size, generator)
        if gradient.any():  # of a matrix of zeros every basis is right
            inside = (theirs * ours.chosen).sum(ours.dim).abs()
            torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-6)
        return cls(theirs, gradient.shape)

    monkeypatch.setattr(Leading, "refresh", classmethod(stored))
    weights = [torch.nn.Parameter(double(w)) for w in case["inputs"]["W0"]]
    optimizer = optimizer_of(case, method, weights)
    for step in range(len(case["inputs"]["grads"][0])):
        for weight, gradients in zip(weights, case["inputs"]["grads"]):
            weight.grad = double(gradients[step])
        optimizer.step()
        for weight, expected in zip(weights, case["outputs"]["params_after_each_step"]):
            torch.testing.assert_close(weight.detach(), double(expected[step]), rtol=1e-7, atol=1e-7)
        if method is Fira:
            for weight, expected in zip(weights, case["outputs"]["stored_residual_norm"]):
                if "residual_norm" in optimizer.state[weight]:
                    norm = optimizer.state[weight]["residual_norm"]
                    torch.testing.assert_close(norm, double(expected[step]), rtol=1e-6, atol=1e-7)
    assert next(order, None) is None


def test_the_fault_is_not_the_default():
    """After a first gradient of zero the rest is applied from the second step on, not after a thousand."""
    case = next(c.values[0] for c in CASES if "shows a fault" in c.values[0]["what"])
    ends = []
    for as_released in (True, False):
        (weight,) = (torch.nn.Parameter(double(w)) for w in case["inputs"]["W0"])
        optimizer = Fira([{"params": [weight], "project": True}], rank=1, alpha=1.0, as_released=as_released)
        weight.grad = double(case["inputs"]["grads"][0][0])
        assert not weight.grad.any()
        for gradient in case["inputs"]["grads"][0][1:3]:
            optimizer.step()
            weight.grad = double(gradient)
        optimizer.step()
        ends.append(float(optimizer.state[weight]["residual_norm"]))
    assert ends[0] < 1e-6 < 0.1 < ends[1]
