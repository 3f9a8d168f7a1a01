"""A small Llama that reads a tenth of a million tokens of documentation, and the loss that each optimizer ends with.

The text is that of ``zoo.text.general_text``, a fifth of it held out; a seed changes the first weights and the order of
what is read.  Every optimizer has its rate from a grid of its own, chosen by its loss with the first seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.claim import Budget, Figure
from palimpsest.claims._evidence import figure, over_seeds
from palimpsest.roles import seeded
from palimpsest.statistics import Interval
from palimpsest.zoo.models import tiny_llama
from palimpsest.zoo.text import general_text

__all__ = ["SIZES", "Arm", "Ends", "Groups", "Size", "difference", "ends", "train"]

OTHERS = 0.02
"""The rate of embeddings and norms, which have full state in every arm: only the matrices of the layers differ."""
Watch = Callable[[nn.Module, torch.optim.Optimizer], None]


@dataclass(frozen=True)
class Size:
    """How large a model and how long a run; ``update_gap`` is a tenth of the steps."""

    layers: int
    width: int
    steps: int
    batch: int
    length: int
    device: str
    rows: int = 1000

    @property
    def rank(self) -> int:
        """A quarter of the width, as in the papers."""
        return self.width // 4

    @property
    def update_gap(self) -> int:
        return self.steps // 10


SIZES: Mapping[Budget, Size] = {
    "cpu": Size(layers=2, width=64, steps=120, batch=8, length=64, device="cpu"),
    "gpu": Size(layers=4, width=256, steps=800, batch=16, length=128, device="cuda"),
}


Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """An optimizer to compare: how it is made of parameter groups, and the rates of the matrices to choose from."""

    make: Callable[[Groups], torch.optim.Optimizer]
    rates: tuple[float, ...]


@cache
def _tokens(rows: int) -> tuple[Tensor, Tensor]:
    """Token ids to read, and those held out."""
    _, tokenizer = tiny_llama(layers=1, width=16)
    ends = tokenizer.eos_token_id
    ids = torch.tensor([i for r in general_text(rows) for i in [*tokenizer(r["text"])["input_ids"], ends]])
    kept = len(ids) * 4 // 5
    return ids[:kept], ids[kept:]


def _loss(model: nn.Module, windows: Tensor) -> Tensor:
    """Nats a token of windows [B, T + 1]."""
    logits = model(input_ids=windows[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train(size: Size, arm: Arm, rate: float, seed: int, watch: Watch | None = None) -> tuple[float, int]:
    """The held-out loss after a run, and bytes of state of the layers' matrices.

    The rate rises over the first tenth of the steps and falls in a straight line to zero.  ``watch`` sees model and
    optimizer after each step, gradients in place.
    """
    read, held = (ids.to(size.device) for ids in _tokens(size.rows))
    model = tiny_llama(layers=size.layers, width=size.width, seed=seed)[0].to(size.device).train()
    named = list(model.named_parameters())
    matrices = [(n, p) for n, p in named if "layers" in n and p.ndim == 2]
    others = [(n, p) for n, p in named if not ("layers" in n and p.ndim == 2)]
    optimizer = arm.make([{"params": matrices, "lr": rate}, {"params": others, "lr": OTHERS}])
    peaks = [group["lr"] for group in optimizer.param_groups]
    order = torch.Generator().manual_seed(seeded(seed, "optimizers"))
    span = torch.arange(size.length + 1, device=size.device)
    for step in range(size.steps):
        starts = torch.randint(len(read) - size.length, (size.batch,), generator=order).to(size.device)
        optimizer.zero_grad()
        torch.autograd.backward(_loss(model, read[starts[:, None] + span]))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * min(10 * (step + 1) / size.steps, (1 - step / size.steps) / 0.9)
        optimizer.step()
        if watch is not None:
            watch(model, optimizer)
    windows = held[: len(held) // len(span) * len(span)].view(-1, len(span))
    with torch.no_grad():
        parts = [windows[i : i + 64] for i in range(0, len(windows) - 63, 64)]
        loss = float(torch.stack([_loss(model, part) for part in parts]).mean())
    return loss, sum(t.nbytes for _, p in matrices for t in optimizer.state[p].values())


@dataclass(frozen=True)
class Ends:
    """The rate of an arm, the losses it ended with, one a seed, and bytes of state of the layers' matrices."""

    rate: float
    losses: tuple[float, ...]
    state: int

    @property
    def interval(self) -> Interval:
        return over_seeds(self.losses)

    def figure(self, name: str) -> Figure:
        return figure(f"held-out loss of {name}", self.interval, "nats a token")


def ends(size: Size, arm: Arm, seeds: Sequence[int]) -> Ends:
    """Chooses the rate with the first seed and trains with the others."""
    first = {rate: train(size, arm, rate, seeds[0]) for rate in arm.rates}
    rate = min(first, key=lambda r: first[r][0])
    losses = [first[rate][0], *(train(size, arm, rate, seed)[0] for seed in seeds[1:])]
    return Ends(rate, tuple(losses), first[rate][1])


def difference(more: Ends, less: Ends) -> Interval:
    """How much larger the losses of the one are, seed by seed."""
    return over_seeds([a - b for a, b in zip(more.losses, less.losses)])
