"""Measuring a model while it trains, without the training noticing.

    result = fit(model, roles, objective, training, watch=Watch(every=10, measure=lambda m: {"accuracy": accuracy(m)}))
    result.watched.curves["accuracy"]              # [(0, 0.1), (10, 0.4), …, (last step, 0.9)]

Measured is before the first step, after every ``every``-th step counted over the stage, and after the last one.  Modes,
random generators and gradients are put back afterwards, so the weights at the end are the same bits as without; a run
that was killed and goes on has the same curves as one that was not.  Of an audit's ``Scores`` the curve has the figure,
and a folder, if one is named, the single items.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from palimpsest import watched_items
from palimpsest.audit import Scores
from palimpsest.processes import agreed
from palimpsest.statistics import aggregate

__all__ = ["Watch", "Watched", "Watcher", "undisturbed"]


@dataclass(frozen=True)
class Watch:
    """``measure`` gives named figures of a model in evaluation mode, the same names each time, and never changes it.

    The items of those that are ``Scores`` are kept in the folder ``items``, if there is one.
    """

    every: int
    measure: Callable[[nn.Module], Mapping[str, float | Scores]]
    items: Path | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is a number of steps of at least 1, not {self.every}.")


@dataclass
class Watched:
    """What a watch saw: each figure as (step, value), the steps between two measurements, and what measuring cost.

    ``items`` is the folder where single items may be; it is not part of what is saved.
    """

    every: int
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: float = 0.0
    items: Path | None = None

    @property
    def last(self) -> int:
        """The last step that was measured, -1 before any."""
        return max((points[-1][0] for points in self.curves.values()), default=-1)

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {"every": self.every, "curves": self.curves, "seconds": self.seconds}

    @staticmethod
    def read(data: Mapping[str, Any], items: Path | None = None) -> Watched:
        """What ``plain`` gave."""
        curves: Mapping[str, Sequence[Sequence[float]]] = data["curves"]
        points = {name: [(int(step), float(value)) for step, value in found] for name, found in curves.items()}
        return Watched(int(data["every"]), points, float(data["seconds"]), items)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients yet inside; modes, gradients and random generators as they were outside.

    Raises ``ValueError`` where a parameter or buffer was written to inside.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    versions = [(name, tensor, tensor._version) for name, tensor in _tensors(model)]
    on_device = torch.cuda.is_available()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    device_states = torch.cuda.get_rng_state_all() if on_device else []
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if on_device:
            torch.cuda.set_rng_state_all(device_states)
    changed = next((name for name, tensor, version in versions if tensor._version != version), None)
    if changed is not None:
        raise ValueError(f"What watches the training wrote to {changed}; measure a copy of the model instead.")


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


class Watcher:
    """A watch at work in one stage of ``steps`` steps; ``stored`` is what a checkpoint kept of it."""

    def __init__(self, watch: Watch, steps: int, stored: Mapping[str, Any] | None = None) -> None:
        self.watch, self.steps = watch, steps
        self.watched = Watched(watch.every) if stored is None else Watched.read(stored)
        self.watched.items = watch.items
        if self.watched.every != watch.every:
            raise ValueError(
                f"This stage was watched every {self.watched.every} steps before it stopped, and now every "
                f"{watch.every}; choose another run folder, or watch as before."
            )

    def at(self, done: int, model: nn.Module) -> float:
        """Measures after step ``done`` if it is time and has not been done; returns the seconds that it took."""
        due = done % self.watch.every == 0 or done == self.steps
        if not due or done <= self.watched.last:
            return 0.0
        start = time.perf_counter()
        with undisturbed(model):
            measured = dict(self.watch.measure(model))
        self._note(done, {name: _figure(value) for name, value in measured.items()})
        if self.watch.items is not None:
            agreed(partial(self._keep, self.watch.items, measured))
        took = time.perf_counter() - start
        self.watched.seconds += took
        return took

    def _note(self, done: int, found: Mapping[str, float]) -> None:
        curves = self.watched.curves
        bad = next((name for name, value in found.items() if not math.isfinite(value)), None)
        if bad is not None:
            raise ValueError(f"{bad} became {found[bad]} at step {done} of a watched stage; lower train.lr.")
        if not found or (curves and curves.keys() != found.keys()):
            raise ValueError(
                f"A watch measured {sorted(found)} at step {done} and {sorted(curves)} before; give the same names, at "
                "least one, each time."
            )
        for name, value in found.items():
            curves.setdefault(name, []).append((done, value))

    def _keep(self, folder: Path, measured: Mapping[str, float | Scores]) -> None:
        """The items of the measurement that was noted last."""
        for name, scores in measured.items():
            if isinstance(scores, Scores):
                watched_items.keep(folder, name, len(self.watched.curves[name]) - 1, scores)


def _figure(value: float | Scores) -> float:
    return aggregate(value.items, value.statistic, value.groups) if isinstance(value, Scores) else float(value)
