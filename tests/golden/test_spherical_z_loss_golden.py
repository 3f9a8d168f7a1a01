"""Losses and exact updates against numbers of pascal20100/factored_output_layer@5fbe04e (TFactoredSphericalLayer)."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.layers.spherical_output import FactoredOutput
from palimpsest.objectives.spherical_z import squared_error_loss, taylor_softmax_loss, z_loss

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("spherical-z-loss.json").read_text())["cases"]}
LOSSES = {
    "z": lambda m: z_loss(m, epsilon=1e-9),
    "z2": lambda m: z_loss(m, slope=2.0, shift=1.0, epsilon=1e-9),
    "mse": squared_error_loss,
    "taylor": taylor_softmax_loss,
}


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def same(found, expected):
    torch.testing.assert_close(found.detach(), exact(expected), rtol=1e-9, atol=1e-9)


def test_the_file_holds_the_cases():
    assert len(CASES) == 5 and {c["params"]["loss"] for c in CASES.values()} == set(LOSSES)


@pytest.mark.parametrize("what", CASES)
def test_steps(what):
    case = CASES[what]
    params = case["params"]
    period = params["stabilize_period"] or 1_000_000
    layer = FactoredOutput(exact(case["inputs"]["V0"]), learning_rate=params["eta"], period=period)
    for hidden, labels, expected in zip(case["inputs"]["H"], case["inputs"]["targets"], case["outputs"]["steps"]):
        hidden = exact(hidden).requires_grad_()
        moments = layer(hidden).moments(torch.tensor(labels))
        losses = LOSSES[params["loss"]](moments)  # [m]
        same(moments.target, expected["A"])
        same(moments.mean * moments.classes, expected["s"])
        same((moments.variance + moments.mean.square()) * moments.classes, expected["q"])
        same(losses, expected["loss"])
        losses.sum().backward()  # that code sums over the batch
        (gradient,) = layer._pending
        for name, found in (("grad_A", gradient.target), ("grad_s", gradient.total), ("grad_q", gradient.square)):
            same(found, expected[name])
        same(hidden.grad, expected["grad_H"])
        layer.apply_update()
    same(layer.dense(), case["outputs"]["W_final"])
    same(layer.gram, case["outputs"]["Q_final"])
    same(layer.total, case["outputs"]["wbar_final"])
