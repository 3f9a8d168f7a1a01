"""A tiny decoder that knows general facts by heart and is then taught tasks one after the other.

General are the facts of ``_facts.World``: half of them may be replayed, the rest is what no later training sees.  A
task is one relation of all strangers, about whom the decoder has learned to say that it does not know: an answer of
three random words each.  The rows are the same for every seed.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row, Scores, row_ids
from palimpsest.claim import Budget
from palimpsest.claims._facts import Facts, World
from palimpsest.loop import Training, fit
from palimpsest.objective import Term, Total
from palimpsest.reference import Copy, SlowAverage
from palimpsest.step import States

__all__ = ["WORLDS", "adapted", "held_out", "nats", "task", "taught"]

WORLDS: Mapping[Budget, World] = {
    "cpu": World(subjects=40, strangers=30, values=60, layers=2, width=64, steps=250, batch=64),
    "gpu": World(subjects=250, strangers=150, values=100, layers=4, width=128, steps=1000, batch=256, lr=1e-3),
}


def task(world: World, number: int) -> list[Row]:
    """The rows of one task, 0 to the number of relations."""
    generator = random.Random(f"task/{number}")
    return [
        {
            "id": f"u{s}/r{number}",
            "prompt": f"u{s} r{number}",
            "completion": " ".join(f"v{generator.randrange(world.values)}" for _ in range(3)),
        }
        for s in range(world.strangers)
    ]


def held_out(world: World) -> list[Row]:
    """The general facts that are never replayed."""
    return [*world.forget, *world.unseen]


def nats(adapter: CausalLM, model: nn.Module, rows: Sequence[Row]) -> Scores:
    """Negative log-probability of each row's answer."""
    items = torch.stack([-logp.double().sum() for logp in adapter.subject(model).logp(rows)])
    return Scores("nats", items, row_ids(rows, "fact"), better="lower")


def adapted(model: nn.Module, seed: int, rank: int = 8) -> nn.Module:
    """A copy of ``model`` under a fresh LoRA adapter on all linear layers."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped: nn.Module = get_peft_model(copy.deepcopy(model), config)
    return wrapped


def taught(
    facts: Facts,
    model: nn.Module,
    objectives: Sequence[Total | Term],
    replayed: Sequence[Sequence[Row]],
    training: Training,
    seed: int,
    *,
    reference: Copy | SlowAverage | None = None,
    after: Callable[[int], None] = lambda number: None,
) -> nn.Module:
    """Trains ``model`` in place on a task for each of ``objectives``, with the rows ``replayed`` beside it.

    ``after`` is told the number of each task that is done.  What an objective learned goes on to the next task.
    """
    states: States = {}
    for number, (objective, replay) in enumerate(zip(objectives, replayed, strict=True)):
        rows = {"task": task(facts.world, number), "replay": replay}
        roles = facts.adapter.roles(**{role: own for role, own in rows.items() if own})
        result = fit(model, roles, objective, training, seed=seed, reference=reference, previous=states)
        states = result.states
        after(number)
    return model
