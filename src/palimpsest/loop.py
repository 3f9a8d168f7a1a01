"""The plain PyTorch loop: exact, resumable, and short enough to be read before it is trusted.

    result = fit(model, roles, objective, Training(steps=100, batch=8, lr=1e-5), folder=Path("run"))

Killed at any point and started again with the same arguments, a run ends with the same weights, bit for bit on
one CPU process.  A loss that is not finite stops the run before the weights change; Ctrl-C keeps what was done.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from palimpsest import checkpoint
from palimpsest.combine import Combine, Sum
from palimpsest.mask import Mask
from palimpsest.objective import Schedule, Term, Total
from palimpsest.reference import Reference
from palimpsest.roles import Roles
from palimpsest.schedule import WarmsUp
from palimpsest.step import NotFinite, States, Step
from palimpsest.watch import Watch, Watched, Watcher

__all__ = [
    "Interrupted",
    "Progress",
    "Result",
    "Stopped",
    "Training",
    "fit",
    "learning_rate",
    "make_optimizer",
    "steps_of",
]


CHECKPOINT_SECONDS = 60.0
"""Seconds between checkpoints where a stage does not say every how many steps."""


@dataclass
class Pace:
    """When to write a checkpoint: every so many steps, or by the clock for at most a twentieth of the time."""

    every: int | None
    last: float = field(default_factory=time.perf_counter)
    cost: float = 0.0

    def due(self, done: int) -> bool:
        """Whether to write one after step ``done``."""
        if self.every is not None:
            return done % self.every == 0
        return time.perf_counter() - self.last >= max(CHECKPOINT_SECONDS, 20 * self.cost)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writing of a checkpoint: measures what it costs."""
        start = time.perf_counter()
        yield
        self.last = time.perf_counter()
        self.cost = self.last - start


class Stopped(RuntimeError):
    """Training ended early; what was reached is on disk."""


class Interrupted(Stopped):
    """Ctrl-C: the state was saved, and the same command goes on from there."""


def interrupted(done: int, steps: int, folder: Path | None) -> Interrupted:
    """What Ctrl-C ends a stage with."""
    where = f"; run the same command again to go on from {folder}" if folder else ""
    return Interrupted(f"Stopped by you after step {done} of {steps}{where}.")


def stopped(done: int, steps: int, folder: Path | None, error: NotFinite) -> Stopped:
    """What a loss or gradient that is not finite ends a stage with."""
    kept = f"; the weights of step {done} are kept in {folder}" if folder else ""
    remedy = f"Lower train.lr or the term's weight{kept}."
    return Stopped(f"Training stopped at step {done + 1} of {steps}: {error}. {remedy}")


Curves = dict[str, list[tuple[int, float]]]
"""Each term's unweighted value by step."""


def resumed_curves(stored: Mapping[str, Sequence[Sequence[float]]], fresh: Curves, folder: Path) -> Curves:
    """The curves of a checkpoint; those of another objective are refused."""
    if stored.keys() != fresh.keys():
        raise ValueError(
            f"{folder} belongs to another objective (with the terms {', '.join(stored)}); choose another run folder."
        )
    return {name: [(int(step), float(value)) for step, value in points] for name, points in stored.items()}


@contextlib.contextmanager
def holding_interrupts(remember: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C inside the block only calls ``remember``, so that what is saved is a state between two steps."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda _, __: remember())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Training:
    """How long, how fast, with what.

    ``epochs`` count rounds through the first role of the objective; give either ``epochs`` or ``steps``.  ``batch`` is
    the number of rows of every role in one optimizer step, over all processes and micro-batches.  ``lr`` is
    multiplied by ``schedule(progress)`` and raised linearly over the first ``warmup`` share of the steps; a schedule
    that has a warm-up of its own takes none here.  Both start afresh with every stage, and so does the optimizer.
    ``precision`` bfloat16 runs the forward under autocast; weights and optimizer stay as they are.
    """

    epochs: float | None = None
    steps: int | None = None
    batch: int = 8
    accumulation: int = 1
    lr: float = 1e-5
    optimizer: Any = "adamw"
    weight_decay: float = 0.0
    schedule: Schedule | None = None
    warmup: float = 0.0
    clip: float | None = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    loop: Literal["plain", "trainer"] = "plain"
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("Give either epochs or steps, one of the two.")
        positive = {"epochs": self.epochs, "steps": self.steps, "batch": self.batch, "accumulation": self.accumulation}
        for name, value in positive.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above 0, not {value}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be a finite number above 0, not {self.lr}.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the steps in [0, 1], not {self.warmup}.")
        if self.warmup and isinstance(self.schedule, WarmsUp) and self.schedule.warmup:
            raise ValueError(
                f"The schedule {type(self.schedule).__name__} warms up over {self.schedule.warmup:g} of the steps, and"
                f" warmup {self.warmup:g} would do so once more; set one of the two to 0."
            )
        if self.batch % self.accumulation:
            raise ValueError(
                f"A batch of {self.batch} rows cannot be split into {self.accumulation} equal micro-batches."
            )
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, not {self.checkpoint_every}.")


@dataclass(frozen=True)
class Progress:
    """Where a stage stands: ``step`` of ``steps`` done, the terms' values at it, the seconds since the start."""

    step: int
    steps: int
    parts: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Result:
    """What a stage did: ``curves`` hold each term's unweighted value by step, ``states`` what its objectives leave
    to the next stage (``fit(previous=...)``), ``watched`` what was measured on the way (not counted in ``seconds``)."""

    steps: int
    seconds: float
    tokens: int
    curves: Curves = field(default_factory=dict)
    states: States = field(default_factory=dict)
    watched: Watched | None = None


def steps_of(training: Training, roles: Roles, objective: Total) -> int:
    """Optimizer steps of a stage: epochs are rounds through the objective's first role."""
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    if not objective.roles:
        raise ValueError("An objective without data roles has no epochs; give steps.")
    return max(1, math.ceil(training.epochs * roles.size(objective.roles[0]) / training.batch))


def learning_rate(training: Training, step: int, steps: int) -> float:
    """The rate of the step with number ``step`` (0 the first)."""
    progress = step / steps
    rate = training.lr * (training.schedule(progress) if training.schedule is not None else 1.0)
    ramp = training.warmup * steps
    return rate * min(1.0, (step + 1) / ramp) if ramp >= 1 else rate


def make_optimizer(training: Training, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD by name, or a callable (parameter groups, lr=, weight_decay=) -> optimizer.

    Vectors (norms, biases) take no weight decay.  A callable is given the parameters with their names, which
    torch's optimizers take: some treat a matrix by what it is in the model.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    members: list[Any] = list(named) if callable(training.optimizer) else [p for _, p in named]
    decayed = [m for m, (_, p) in zip(members, named) if p.ndim > 1]
    plain = [m for m, (_, p) in zip(members, named) if p.ndim <= 1]
    if not decayed and not plain:
        raise ValueError("No parameter of the model is trainable; unfreeze some or attach an adapter.")
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay, fused=True)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, weight_decay=training.weight_decay, momentum=0.9)
    if callable(training.optimizer):
        made: torch.optim.Optimizer = training.optimizer(groups, lr=training.lr, weight_decay=training.weight_decay)
        return made
    raise ValueError(f"There is no optimizer {training.optimizer!r}; there are: adamw, sgd.")


def fit(
    model: nn.Module,
    roles: Roles,
    objective: Total | Term,
    training: Training,
    *,
    seed: int = 0,
    reference: Reference | None = None,
    teacher: Reference | None = None,
    combine: Combine | None = None,
    mask: Mask | None = None,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    previous: States | None = None,
    watch: Watch | None = None,
    last: bool = False,
) -> Result:
    """Trains ``model`` in place. With a ``folder``, goes on from the last complete checkpoint in it.

    ``last`` leaves one of the last step too, from which a longer run can go on.

    ``previous`` are the ``states`` of the result of an earlier stage, for objectives that remember (EWC, prototypes).
    ``watch`` measures the model on the way and leaves every weight as it would have been.

    Raises ``Interrupted`` on Ctrl-C and ``Stopped`` when a loss or gradient is not finite; both leave the last good
    state in ``folder``.
    """
    total = Total((objective,)) if isinstance(objective, Term) else objective
    autocast = torch.bfloat16 if training.precision == "bfloat16" else None
    step = Step(total, model, reference, teacher, combine or Sum(), mask, autocast=autocast, seed=seed)
    step.prepare(roles, previous)
    steps = steps_of(training, roles, total)
    if folder is not None and step.sharded:
        raise ValueError("The plain loop cannot save a model that FSDP splits; use train.loop: trainer, or no folder.")
    if watch is not None and step.sharded:
        raise ValueError("A watch measures the whole model, which FSDP splits; train on one process or with DDP.")
    run = _Run(model, roles, training, step, make_optimizer(training, step.model), seed, steps, folder)
    run.resume(watch)
    return run.go(on_step, last)


class _Run:
    """The state of one ``fit``."""

    def __init__(
        self,
        model: nn.Module,
        roles: Roles,
        training: Training,
        step: Step,
        optimizer: torch.optim.Optimizer,
        seed: int,
        steps: int,
        folder: Path | None,
    ) -> None:
        self.model, self.roles, self.training, self.step = model, roles, training, step
        self.optimizer, self.seed, self.steps, self.folder = optimizer, seed, steps, folder
        self.done, self.start = 0, time.perf_counter()
        self.watcher: Watcher | None = None
        self.curves: Curves = {t.name: [] for t in step.objective.terms}
        self.rank = torch.distributed.get_rank() if step.processes > 1 else 0
        self.interrupted = False
        self.pace = Pace(training.checkpoint_every)

    def resume(self, watch: Watch | None = None) -> None:
        """Goes back to the last complete checkpoint, or seeds the generators of a fresh start."""
        found = checkpoint.latest(self.folder) if self.folder is not None else None
        if watch is not None:
            self.watcher = Watcher(watch, self.steps, None if found is None else found.extra.get("watched"))
        if found is None:
            torch.manual_seed(self.seed)
            return
        if watch is not None and "watched" not in found.extra:
            raise ValueError(f"{found.folder} was not watched from its start; choose another run folder.")
        self.curves = resumed_curves(found.extra["curves"], self.curves, found.folder)
        checkpoint.restore(found, self.step.bare, self.optimizer, self.step.modules)
        self.done, self.step.tokens = found.step, found.extra["tokens"]
        self.start = time.perf_counter() - found.extra["seconds"]

    def go(self, on_step: Callable[[Progress], None] | None, last: bool = False) -> Result:
        """All remaining steps."""
        self.model.train()
        try:
            with holding_interrupts(self._interrupt):
                self._look()
            while self.done < self.steps and not self.interrupted:
                with holding_interrupts(self._interrupt):
                    self._one()
                    self.done += 1
                    for name, value in self.step.parts.items():
                        self.curves[name].append((self.done, value))
                    self._look()
                if on_step is not None:  # before the checkpoint, so that what it does to the model is kept
                    on_step(Progress(self.done, self.steps, self.step.parts, self.seconds))
                if last if self.done == self.steps else self.pace.due(self.done):
                    self._save()
            if self.interrupted:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self._save()
            raise interrupted(self.done, self.steps, self.folder) from None
        except NotFinite as error:
            self._save()
            raise stopped(self.done, self.steps, self.folder, error) from None
        self.model.eval()
        watched = None if self.watcher is None else self.watcher.watched
        return Result(self.steps, self.seconds, self.step.tokens, self.curves, self.step.left, watched)

    @property
    def seconds(self) -> float:
        """Time spent on training so far, in all lives of the run."""
        return time.perf_counter() - self.start

    def _look(self) -> None:
        """Measures if it is time to; a run killed before it could measure does so when it goes on."""
        if self.watcher is not None:
            self.start += self.watcher.at(self.done, self.step.bare)

    def _interrupt(self) -> None:
        self.interrupted = True

    def _one(self) -> None:
        """One optimizer step; the weights move only if every number in it is finite."""
        training = self.training
        batches = self.roles.window(
            self.done,
            training.batch,
            seed=self.seed,
            rank=self.rank,
            world=self.step.processes,
            accumulation=training.accumulation,
            roles=self.step.objective.roles,
            pairs=self.step.objective.pairs,
        )
        device = next(self.model.parameters()).device
        counts = self.step.count(batches, self.done)
        self.optimizer.zero_grad(set_to_none=True)
        for i, batch in enumerate(batches):
            with self._unsynchronized() if i + 1 < len(batches) else contextlib.nullcontext():
                self.step.backward(batch.to(device), counts, self.done / self.steps, micro=len(batches))
        self.step.gradients()
        self.step.clip(training.clip)
        rate = learning_rate(training, self.done, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step.after(self.optimizer, rate / training.lr)

    def _unsynchronized(self) -> contextlib.AbstractContextManager[None]:
        """DDP reduces once a window, after its last micro-batch."""
        ddp = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync() if ddp else contextlib.nullcontext()  # type: ignore[operator]

    def _save(self) -> None:
        if self.folder is None or self.rank != 0:
            return
        extra: dict[str, Any] = {"tokens": self.step.tokens, "seconds": self.seconds, "curves": self.curves}
        if self.watcher is not None:
            extra["watched"] = self.watcher.watched.plain()
        with self.pace.writing():
            checkpoint.save(self.folder, self.done, self.step.bare, self.optimizer, self.step.modules, extra)
