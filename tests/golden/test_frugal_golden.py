"""FRUGAL against trajectories of fzmushko/FRUGAL@c7ebe4c: blocks, columns, rows, entries, a subspace, Lion."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.optim import FRUGAL
from palimpsest.optim._splitter import Columns, Entries, Leading, Rows

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("frugal.json").read_text())["cases"]}
FAULTY = next(what for what in CASES if "fault" in what)
OUTSIDE = {"sign_sgd": "sign", "sgd": "gradient", "no": "nothing"}
SPLITTERS = {"blockwise": "blocks", "projection": "svd", "coordinates: randk": "entries"}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def optimizer_of(params, weights):
    regular = params.get("regular_parameters", [])
    groups = [
        {"params": [w for i, w in enumerate(weights) if i not in regular], "project": True},
        {"params": [w for i, w in enumerate(weights) if i in regular], "project": False},
    ]
    rule = params["state_full_rule"].replace("sgdm", "momentum")
    splitter = params.get("splitter", f"coordinates: {params.get('coord_choice')}")
    return FRUGAL(
        [g for g in groups if g["params"]],
        lr=params["lr"],
        weight_decay=params["weight_decay"],
        density=params["density"],
        update_gap=params["update_gap"],
        splitter=SPLITTERS.get(splitter, splitter.removeprefix("coordinates: ")),
        order=params.get("block_order", "random"),
        state_rule=rule,
        outside=OUTSIDE[params["inactive_update_rule"]],
        outside_scale=params["inactive_lr_scale"],
        scale=params["proj_params_lr_scale"],
        reset=params["reset_statistics"],
        betas=(params["momentum"], 0.0) if rule == "momentum" else tuple(params["betas"]),
        eps=params.get("eps", 1e-8),
    )


def stored_choices(case, monkeypatch):
    """Puts the choices of the authors' run in place of ours, which are drawn by other generators."""
    stored = case["inputs"].get("indices_at_refresh") or case["outputs"].get("basis_at_refresh")
    if stored is None:
        return
    split = [s for s in stored if s and s[0] is not None]
    order = iter([s[k] for k in range(len(split[0])) for s in split])

    def choose(cls, gradient, size, generator):
        chosen = next(order)
        if cls is Leading:
            chosen = double(chosen)
            assert cls(chosen, gradient.shape).down(gradient).numel() == size * max(gradient.shape)
        elif cls is Entries:
            rows, columns = (torch.tensor(places) for places in chosen)
            chosen = rows * gradient.shape[1] + columns
            assert len(chosen) == size
        else:
            chosen = torch.tensor(chosen, dtype=torch.int64)
            assert len(chosen) == size
        return cls(chosen, gradient.shape)

    for kind in (Leading, Columns, Rows, Entries):
        monkeypatch.setattr(kind, "refresh", classmethod(choose))


def worst(case, monkeypatch):
    """The largest difference of any weight after any step, step by step."""
    stored_choices(case, monkeypatch)
    weights = [torch.nn.Parameter(double(w)) for w in case["inputs"]["W0"]]
    optimizer = optimizer_of(case["params"], weights)
    found = []
    for step in range(len(case["inputs"]["grads"][0])):
        for weight, gradients in zip(weights, case["inputs"]["grads"]):
            weight.grad = double(gradients[step])
        optimizer.step()
        after = [double(w[step]) for w in case["outputs"]["params_after_each_step"]]
        found.append(max(float((w.detach() - a).abs().max()) for w, a in zip(weights, after)))
    return found


@pytest.mark.parametrize("what", [w for w in CASES if w != FAULTY])
def test_every_step(what, monkeypatch):
    exact = "basis_at_refresh" not in CASES[what]["outputs"]
    assert max(worst(CASES[what], monkeypatch)) < (1e-9 if exact else 1e-6)


def test_momentum_starts_at_the_gradient(monkeypatch):
    """The released code starts at 1 + momentum times the gradient; without that surplus the first step agrees."""
    case = CASES[FAULTY]
    assert worst(case, monkeypatch)[0] > 1e-3
    weight, gradient, after = (
        double(x)
        for x in (*case["inputs"]["W0"], case["inputs"]["grads"][0][0], case["outputs"]["params_after_each_step"][0][0])
    )
    chosen = case["inputs"]["indices_at_refresh"][0][0]
    surplus = case["params"]["lr"] * case["params"]["momentum"] * gradient[:, chosen]
    after[:, chosen] += surplus
    torch.testing.assert_close(after, weight - case["params"]["lr"] * gradient, rtol=1e-7, atol=1e-7)
    parameter = torch.nn.Parameter(weight)
    optimizer = optimizer_of(case["params"], [parameter])
    stored_choices(case, monkeypatch)
    parameter.grad = gradient
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), after, rtol=1e-7, atol=1e-7)
