"""Pre-training and its continuation at toy size, for the claims about learning-rate schedules and replay.

A byte-level Llama reads passages of the standard library's source code, and then of its docstrings: a strong shift.
It is so small that it has nearly learned what it can at its peak rate when the first part ends: a model that still
learns fast gains from any larger rate.  Training passages are never repeated, and losses are measured on passages that
no run sees.  The passages are the same for every seed: seeds change the first weights and the order of the data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audits.perplexity import Perplexity
from palimpsest.claim import Budget
from palimpsest.claims._evidence import figure
from palimpsest.claims._facts import device_of
from palimpsest.loop import Progress, Training, fit
from palimpsest.mix import mixed
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.schedules.rewarm import Rewarm
from palimpsest.statistics import bootstrap_over_seeds
from palimpsest.zoo.models import tiny_llama
from palimpsest.zoo.text import CORPORA, corpus

if TYPE_CHECKING:
    from palimpsest.audit import Row, Scores
    from palimpsest.claim import Figure
    from palimpsest.objective import Schedule

__all__ = ["EARLY", "FLOOR", "OLD", "SCALES", "Bench", "Noted", "Scale", "averaged", "bench", "losses", "pretrained"]

OLD: CORPORA = "code"
NEW: CORPORA = "docstrings"
EARLY = 15
"""The step of a continuation after which its loss on old data is taken early."""

FLOOR = 0.1
"""Every schedule that is compared falls to this share of its peak."""


Noted = dict[tuple[str, str], list["Scores"]]
"""(arm, what) -> loss a seed; what is old or new data at the end, or old data early."""


@dataclass(frozen=True)
class Scale:
    """How large the model is, and how long it reads: ``upstream`` steps first, ``downstream`` steps of new data."""

    layers: int = 1
    width: int = 16
    characters: int = 64
    batch: int = 16
    upstream: int = 600
    downstream: int = 150
    lr: float = 1e-2
    held_out: int = 64


SCALES: Mapping[Budget, Scale] = {
    "cpu": Scale(),
    "gpu": Scale(layers=4, width=128, upstream=2500, downstream=400, lr=2e-3, held_out=128),
}


@dataclass(frozen=True, eq=False)
class Bench:
    """What the runs of one seed share."""

    scale: Scale
    seed: int
    adapter: CausalLM
    untrained: nn.Module

    def rows(self, part: CORPORA, steps: int, *, after: int = 0) -> list[Row]:
        """The passages for ``steps`` steps, behind those of the first ``after`` steps."""
        first = self.scale.held_out + after * self.scale.batch
        last = first + steps * self.scale.batch
        return _passages(part, last, self.scale.characters)[first:]

    def loss(self, model: nn.Module, part: CORPORA) -> Scores:
        """Nats a byte on passages that are never trained on."""
        rows = _passages(part, self.scale.held_out, self.scale.characters)
        return Perplexity()(self.adapter.subject(model), {part: rows}, part)

    def trained(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        schedule: Schedule | None,
        *,
        lr: float | None = None,
        warmup: float = 0.0,
        steps: int | None = None,
        watch: Callable[[Progress, nn.Module], None] | None = None,
    ) -> nn.Module:
        """A copy of ``model`` after one round through ``rows`` or its first ``steps``, with a fresh optimizer.

        ``watch`` sees every step.
        """
        found = copy.deepcopy(model)
        training = Training(
            steps=steps or len(rows) // self.scale.batch,
            batch=self.scale.batch,
            lr=lr or self.scale.lr,
            schedule=schedule,
            warmup=warmup,
        )
        roles = self.adapter.roles(stream=rows)

        def look(progress: Progress) -> None:
            if watch is not None:
                watch(progress, found)
                found.train()

        fit(found, roles, on("stream", CrossEntropy()), training, seed=self.seed, on_step=look)
        return found

    def old(self) -> list[Row]:
        """The rows that are read first."""
        return self.rows(OLD, self.scale.upstream)

    def union(self) -> list[Row]:
        """The rows of both parts."""
        return [*self.old(), *self.rows(NEW, self.scale.downstream)]

    def stream(self, share: float) -> list[Row]:
        """The rows of a continuation, of which ``share`` are old; their number does not depend on it."""
        pools = {"old": self.old(), "new": self.rows(NEW, self.scale.downstream)}
        return mixed(pools, {"old": share, "new": 1 - share}, rows=len(pools["new"]))

    def note(self, found: Noted, arm: str, model: nn.Module) -> None:
        """Takes down the losses of ``model`` on both kinds of data."""
        for what, part in (("old", OLD), ("new", NEW)):
            found.setdefault((arm, what), []).append(self.loss(model, part))

    def early(self, found: Noted, arm: str) -> Callable[[Progress, nn.Module], None]:
        """Takes down the loss on old data after ``EARLY`` steps of a continuation."""

        def look(progress: Progress, model: nn.Module) -> None:
            if progress.step == EARLY:
                found.setdefault((arm, "early old"), []).append(self.loss(model, OLD))

        return look

    def halfway(self, one: nn.Module, other: nn.Module) -> nn.Module:
        """The mean of the weights of two models."""
        found = copy.deepcopy(one)
        values = other.state_dict()
        found.load_state_dict({name: (value + values[name]) / 2 for name, value in found.state_dict().items()})
        return found


@cache
def _passages(part: CORPORA, rows: int, characters: int) -> list[Row]:
    """Cut once a process, since it is asked for at every measurement."""
    return corpus(part, rows, characters=characters)


@cache
def bench(budget: Budget, seed: int) -> Bench:
    """A model with random weights and what trains it."""
    scale = SCALES[budget]
    model, tokenizer = tiny_llama(259, layers=scale.layers, width=scale.width, seed=seed)
    return Bench(scale, seed, CausalLM(tokenizer), model.to(device_of(budget)))


@cache
def pretrained(budget: Budget, seed: int) -> nn.Module:
    """The model that read the old data, its learning rate having fallen to a tenth; never change it."""
    own = bench(budget, seed)
    return own.trained(own.untrained, own.old(), Rewarm(0.02, FLOOR))


def averaged(one: Sequence[Scores], other: Sequence[Scores]) -> list[Scores]:
    """The mean of the losses on two kinds of data, each counted once: passage i of one with passage i of the other."""
    return [
        replace(a, items=(a.items + b.items) / 2, ids=tuple(f"{i}" for i in range(len(a.ids))), role="both")
        for a, b in zip(one, other, strict=True)
    ]


def losses(found: Mapping[str, Sequence[Scores]]) -> list[Figure]:
    """A figure for the loss of every arm, over seeds."""
    return [figure(name, bootstrap_over_seeds(scores), "nats/byte") for name, scores in found.items()]
