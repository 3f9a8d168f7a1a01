"""Plain training with a few short rounds in which the most forgetful layers are tuned on a buffer.

    every step      theta <- theta - lr grad L_stream                     all weights, no replay; the buffer fills
    after the steps ceil(i N / k), i = 1..k, of N:
                    F <- F - lr' grad L_buffer, S steps                   only the layers F (``forgetting_prioritized``)

In a recipe, with a role ``replay: [task1, task2]``:

    procedure: {k_fpf: {rounds: 5, steps: 50, size: 200}}
    objective: [{on: task2, cross_entropy: {}}, {on: replay, cross_entropy: {}}]

The terms on ``replay`` are what a round minimizes (``dark_experience`` beside ``cross_entropy`` makes it k-FPF with
distillation); all other terms are trained in between.  The buffer is a ``reservoir`` of those rows of ``replay`` that
have been seen: a row that is also one of the stream is there only after the stream has handed it out.

Paper: Does Continual Learning Equally Forget All Parameters? (Zhao et al., 2023), arXiv 2304.04158, FPF and k-FPF.
Code: none released.
Tags: retain, continual-learning, replay, mask, classifier, language-model.
Needs: a role of rows to replay; what its terms need.
Differs: rounds are spaced evenly over the steps of a stage, so with a stage a task over the steps of a task; the paper
    spaces them over the stream. A round has an optimizer of its own, without momentum from before. Steps and tokens of
    the result count the rounds too. With ``rounds`` 1 it is plain training and then FPF.
See: ``forgetting_prioritized`` (as a mask of a stage on ``replay`` it is FPF after any method), ``reservoir``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from palimpsest.checkpoint import flat_states, nested_states, read_tensors, write_tensors
from palimpsest.data import row_key
from palimpsest.loop import Progress, Result, Training, fit, interrupted, steps_of
from palimpsest.masks.forgetting_prioritized import ForgettingPrioritized
from palimpsest.objective import Total
from palimpsest.processes import agreed
from palimpsest.reference import Reference
from palimpsest.roles import Roles, seeded
from palimpsest.select import Selection
from palimpsest.selectors.reservoir import Reservoir
from palimpsest.step import States

__all__ = ["KFPF", "METHOD", "buffer_of", "round_seed", "round_steps"]


def round_steps(steps: int, rounds: int) -> list[int]:
    """The steps after which there is a round: ceil(i steps / rounds) for i = 1 to ``rounds``, the last at the end."""
    if not 1 <= rounds <= steps:
        raise ValueError(f"{rounds} rounds do not fit between {steps} steps; take 1 to {steps}.")
    return [-(-i * steps // rounds) for i in range(1, rounds + 1)]


def round_seed(seed: int, number: int) -> int:
    """The seed of round ``number`` (0 the first), so that each sees the buffer in another order."""
    return seeded(seed, "k_fpf", number)


def buffer_of(
    roles: Roles,
    replay: str,
    streams: Sequence[str],
    seen: int,
    keep: Reservoir,
    seed: int,
    pairs: Sequence[Sequence[str]] = (),
) -> Selection:
    """The buffer once ``seen`` rows of each stream have been handed out: a selection of rows of ``replay``."""
    shown: set[str] = set()
    coming: set[str] = set()
    for role in dict.fromkeys(map(roles.source, streams)):
        keys = [row_key(row) for row in roles.rows[role]]
        coming.update(keys)
        shown.update(keys[roles.position(role, place, seed, pairs)[0]] for place in range(min(seen, roles.size(role))))
    rows, chosen = roles.rows[replay], roles.selections.get(replay)
    allowed = range(len(rows)) if chosen is None else chosen.index.tolist()
    past = [i for i in allowed if row_key(rows[i]) not in coming - shown]
    if not past:
        raise ValueError(f"The buffer is empty: no row of {replay!r} has been seen; put rows of earlier tasks into it.")
    found = keep([rows[i] for i in past])
    return Selection(torch.tensor(past)[found.index], found.weight, found.score)


@dataclass(frozen=True)
class KFPF:
    """``rounds`` rounds of ``steps`` steps with ``learning_rate`` (None: that of the stage) on a buffer of ``size``."""

    rounds: int = 5
    steps: int = 50
    size: int = 200
    learning_rate: float | None = None
    replay: str = "replay"
    moves: ForgettingPrioritized = field(default_factory=ForgettingPrioritized)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < 0:
            raise ValueError(f"rounds must be at least 1 and steps not negative, not {self.rounds} and {self.steps}.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}; None is that of the stage.")
        Reservoir(self.size)  # which checks it

    def __call__(
        self,
        model: nn.Module,
        roles: Roles,
        objective: Total,
        training: Training,
        *,
        seed: int = 0,
        reference: Reference | None = None,
        folder: Path | None = None,
        on_step: Callable[[Progress], None] | None = None,
        previous: States | None = None,
    ) -> Result:
        """Trains ``model`` in place; a round runs between two steps of ``fit``, whose next checkpoint keeps it."""
        stream, tuned = self._split(objective)
        _refuse_single_rows(model, training)
        at = round_steps(steps_of(training, roles, stream), self.rounds)
        rounds = _Rounds(self, model, roles, tuned, stream, training, seed, reference, folder, previous)

        def after(progress: Progress) -> None:
            if self.steps and progress.step in at:
                try:
                    rounds.go(at.index(progress.step), progress.step * training.batch)
                except KeyboardInterrupt:  # fit would take the half-done round for the end of its step
                    raise interrupted(progress.step, progress.steps, folder) from None
            if on_step is not None:
                on_step(progress)

        result = fit(
            model, roles, stream, training,
            seed=seed, reference=reference, folder=folder, on_step=after, previous=previous,
        )  # fmt: skip
        done = [rounds.record(number) for number in range(self.rounds)] if self.steps else []
        return replace(
            result,
            steps=result.steps + self.steps * len(done),
            tokens=result.tokens + sum(tokens for _, tokens in done),
            states={**result.states, **(done[-1][0] if done else {})},
        )

    def _split(self, objective: Total) -> tuple[Total, Total]:
        """The terms of the stream and those of the rounds."""
        tuned = tuple(t for t in objective.terms if self.replay in t.role)
        stream = tuple(t for t in objective.terms if self.replay not in t.role)
        if not tuned or not stream:
            raise ValueError(
                f"k_fpf needs a term on {self.replay!r}, for its rounds, and one elsewhere, for the steps between them."
            )
        return Total(stream), Total(tuned)


@dataclass
class _Rounds:
    """The rounds of one call, and what each left: its objectives' states and its tokens."""

    method: KFPF
    model: nn.Module
    roles: Roles
    tuned: Total
    stream: Total
    training: Training
    seed: int
    reference: Reference | None
    folder: Path | None
    previous: States | None
    left: dict[int, tuple[States, int]] = field(default_factory=dict)

    def go(self, number: int, seen: int) -> None:
        """Tunes the layers on the buffer as it is now."""
        method, roles = self.method, self.roles
        given = roles.selections.get(method.replay)
        home = None if self.folder is None else self.folder / f"round-{number}"
        known = self.record(number - 1)[0] if number else {}
        rate = self.training.lr if method.learning_rate is None else method.learning_rate
        training = replace(self.training, epochs=None, steps=method.steps, lr=rate, schedule=None, warmup=0.0)
        keep = Reservoir(method.size)
        buffer = buffer_of(roles, method.replay, self.stream.roles, seen, keep, self.seed, self.stream.pairs)
        try:
            roles.selections[method.replay] = buffer
            with torch.random.fork_rng():
                result = fit(
                    self.model, roles, self.tuned, training,
                    seed=round_seed(self.seed, number), reference=self.reference, folder=home,
                    mask=method.moves(self.model, roles), previous={**(self.previous or {}), **known},
                )  # fmt: skip
        finally:
            if given is None:
                del roles.selections[method.replay]
            else:
                roles.selections[method.replay] = given
        self.model.train()
        self._keep(number, {**known, **result.states}, result.tokens)
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)

    def _keep(self, number: int, states: States, tokens: int) -> None:
        """On disk too, since a run that is killed later begins after this round."""
        self.left[number] = states, tokens
        if self.folder is not None:
            file = self.folder / f"round-{number}.safetensors"
            agreed(lambda: write_tensors(file, flat_states(states), {"tokens": tokens}))

    def record(self, number: int) -> tuple[States, int]:
        """What a round left."""
        if number not in self.left:
            assert self.folder is not None
            flat, constants = read_tensors(self.folder / f"round-{number}.safetensors")
            self.left[number] = nested_states(flat), constants["tokens"]
        return self.left[number]


def _refuse_single_rows(model: nn.Module, training: Training) -> None:
    """PyTorch's own error comes after the first step, or not at all where a picture's pixels fill the batch."""
    normalized = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if normalized and training.batch // training.accumulation < 2:
        raise ValueError("Batch normalization needs two rows at a time, since it takes statistics; raise train.batch.")


METHOD = KFPF
