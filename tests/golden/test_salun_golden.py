"""Masks and trajectories of the released code (OPTML-Group/Unlearn-Saliency@a6e89fd) under our mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.mask import Mask, Masked
from palimpsest.masks.salun import top_fraction

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "salun.json").read_text())["cases"]
NAMES = ("W1", "b1", "W2", "b2")


class Net(nn.Module):
    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        for name in NAMES:
            self.register_parameter(name, nn.Parameter(torch.tensor(given[name], dtype=torch.float64)))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ self.get_parameter("W1").T + self.get_parameter("b1"))
        return hidden @ self.get_parameter("W2").T + self.get_parameter("b2")


class OnlyGradients(Masked):
    """What the earlier release did."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        pass


def tensors(values: list[Any]) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@pytest.mark.parametrize("fraction", CASES[0]["params"]["fractions"])
def test_masks(fraction: float) -> None:
    case = CASES[0]
    net = Net(case["inputs"])
    for x, y in zip(tensors(case["inputs"]["forget_x"]), case["inputs"]["forget_y"]):
        nn.functional.cross_entropy(net(x), torch.tensor(y)).backward()  # the sum of batch means, as released
    gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    for name in NAMES:
        expected = torch.tensor(case["outputs"]["abs_gradient_sum"][name], dtype=torch.float64)
        torch.testing.assert_close(gradients[name].abs(), expected, rtol=1e-9, atol=1e-12)
    moves = top_fraction(gradients, fraction)
    assert {n: moves[n].int().tolist() for n in NAMES} == case["outputs"]["mask"][str(fraction)]


def trajectory(case: dict[str, Any], kind: type[Masked]) -> list[dict[str, Tensor]]:
    """The parameters after each of the case's steps."""
    given, params = case["inputs"], case["params"]
    net = Net(given)
    everything = {n: torch.ones(p.shape).tolist() for n, p in net.named_parameters()}
    masked = kind(Mask({n: torch.tensor(m).bool() for n, m in given.get("mask", everything).items()}), net)
    optimizer = torch.optim.SGD(net.parameters(), params["lr"], params["momentum"], weight_decay=params["weight_decay"])
    drawn = iter(given["random_labels"])
    after = []
    for _ in range(params["epochs"]):
        batches = [(x, next(drawn)) for x in tensors(given["forget_x"])]
        for x, y in [*batches, *zip(tensors(given["retain_x"]), given["retain_y"])]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), torch.tensor(y)).backward()
            masked.before_step()
            optimizer.step()
            masked.after_step(optimizer)
            after.append({n: p.detach().clone() for n, p in net.named_parameters()})
    return after


@pytest.mark.parametrize(("number", "kind"), [(1, Masked), (2, Masked), (3, OnlyGradients)])
def test_trajectories(number: int, kind: type[Masked]) -> None:
    case = CASES[number]
    after = trajectory(case, kind)
    for step, expected in zip(case["outputs"]["steps"], case["outputs"]["params_after_step"]):
        for name in NAMES:
            released = torch.tensor(expected[name], dtype=torch.float64)
            torch.testing.assert_close(after[step - 1][name], released, rtol=1e-9, atol=1e-11)


def test_the_earlier_release_leaks_and_ours_does_not() -> None:
    case = CASES[3]
    frozen = {n: ~torch.tensor(case["inputs"]["mask"][n]).bool() for n in NAMES}
    start = {n: torch.tensor(case["inputs"][n], dtype=torch.float64) for n in NAMES}

    def drift(kind: type[Masked]) -> float:
        last = trajectory(case, kind)[-1]
        return max(float((last[n] - start[n])[frozen[n]].abs().max()) for n in NAMES)

    assert drift(OnlyGradients) == pytest.approx(1.21e-3, rel=0.01)
    assert drift(Masked) == 0.0
