"""Two tasks in a row, digits as they are and digits turned by an angle, with every step of the second one measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audit import Row
from palimpsest.curves import Gap, StepCurves, gap
from palimpsest.loop import Training, fit
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.watch import Watch
from palimpsest.zoo.digits import digits

__all__ = ["METHODS", "Method", "Stream", "gradient_norms", "rotated", "stream"]

Method = Literal["fine-tuning", "replay", "joint"]
METHODS: tuple[Method, ...] = ("fine-tuning", "replay", "joint")
STEPS, BATCH, MEMORY = 300, 64, 200
SCALE = 4
"""Pictures are enlarged so many times to be turned, and averaged back to 8 by 8."""


def rotated(rows: Sequence[Row], degrees: float) -> list[Row]:
    """The same digits turned counterclockwise about their middle; what comes in from outside is black."""
    pictures = torch.stack([row["inputs"].view(1, 8, 8) for row in rows])  # [N, 1, 8, 8]
    large = F.interpolate(pictures, scale_factor=SCALE, mode="bilinear", align_corners=False)
    angle = torch.tensor(degrees).deg2rad()
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])
    grid = F.affine_grid(turn.expand(len(rows), 2, 3), list(large.shape), align_corners=False)
    small = F.avg_pool2d(F.grid_sample(large, grid, align_corners=False), SCALE).flatten(1)  # [N, 64]
    return [{**row, "inputs": picture} for row, picture in zip(rows, small, strict=True)]


@dataclass(frozen=True)
class Stream:
    """What one method did: the accuracy on both tasks after each step, and the gap of the first."""

    curves: StepCurves

    @property
    def gap(self) -> Gap:
        """The first task's curve from just before the second stage to its end."""
        return gap(*self.curves.during("first", 2), better="higher")


@dataclass(frozen=True)
class _Start:
    """A perceptron that has learned the first task, with the curve of its learning."""

    model: nn.Module
    watched: Mapping[str, Any]
    train: Sequence[Row]
    test: Sequence[Row]


def _perceptron(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )  # fmt: skip


def _plain_sgd(groups: Any, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Without momentum, as in the card."""
    return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay)


def _train(
    model: nn.Module, objective: Total | Term, rows: Mapping[str, Sequence[Row]], tests: Mapping[str, Sequence[Row]],
    rate: float, seed: int,
) -> Mapping[str, list[tuple[int, float]]]:  # fmt: skip
    """Trains in place and returns the accuracy on every test after every step."""
    device = next(model.parameters()).device
    packed = {name: _packed(own, device) for name, own in tests.items()}

    def measure(watched: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {n: float((watched(x).argmax(1) == y).double().mean()) for n, (x, y) in packed.items()}

    training = Training(steps=STEPS, batch=BATCH, lr=rate, optimizer=_plain_sgd, clip=None)
    roles = Roles(Classifier(10), rows)
    result = fit(model, roles, objective, training, seed=seed, watch=Watch(1, measure))
    assert result.watched is not None
    return result.watched.curves


def _packed(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    inputs = torch.stack([row["inputs"] for row in rows])
    return inputs.to(device), torch.tensor([row["label"] for row in rows], device=device)


@cache
def _start(rate: float, seed: int, device: torch.device) -> _Start:
    """The first stage, once a process and the same for all methods; never change its model."""
    train, test = digits(seed=seed, test=497 / 1797)
    model = _perceptron(seed).to(device)
    watched = _train(model, on("task", CrossEntropy()), {"task": train}, {"first": test}, rate, seed)
    return _Start(model, watched, train, test)


def memory_of(rows: Sequence[Row], size: int) -> list[Row]:
    """The first ``size`` / 10 rows of each class."""
    return [row for label in range(10) for row in [r for r in rows if r["label"] == label][: size // 10]]


def _objective(method: Method) -> Total | Term:
    task = on("task", CrossEntropy())
    return task if method == "fine-tuning" else task * 0.5 + on("replay", CrossEntropy()) * 0.5


def _second(method: Method, start: _Start, degrees: float) -> dict[str, Sequence[Row]]:
    rows: dict[str, Sequence[Row]] = {"task": rotated(start.train, degrees)}
    if method != "fine-tuning":
        rows["replay"] = memory_of(start.train, MEMORY) if method == "replay" else start.train
    return rows


@cache
def stream(method: Method, degrees: float, rate: float, seed: int, device: torch.device) -> Stream:
    """Digits upright, then turned: 300 steps each of plain SGD, 64 new rows a step and, but for fine-tuning, 64 old.

    Replay keeps 200 old rows, balanced by class; joint training keeps all of them.
    """
    start = _start(rate, seed, device)
    model = copy.deepcopy(start.model)
    tests = {"first": start.test, "second": rotated(start.test, degrees)}
    watched = _train(model, _objective(method), _second(method, start, degrees), tests, rate, seed + 1)
    curves = StepCurves.joined([start.watched, watched], {"first": 1, "second": 2}, better="higher")
    return Stream(curves)


def gradient_norms(degrees: float, rate: float, seed: int, device: torch.device) -> tuple[float, float]:
    """Norms of the gradients of the replayed and of the new loss, each on all its rows, just before the switch."""
    start = _start(rate, seed, device)
    norms = []
    for rows in (memory_of(start.train, MEMORY), rotated(start.train, degrees)):
        inputs, labels = _packed(rows, device)
        loss = F.cross_entropy(start.model(inputs), labels)
        found = torch.autograd.grad(loss, list(start.model.parameters()))
        norms.append(float(torch.cat([g.flatten() for g in found]).norm()))
    return norms[0], norms[1]
