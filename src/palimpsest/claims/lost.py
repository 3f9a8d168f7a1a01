"""Rebuilds each linear layer before pre-training as a low-rank path from a singular value decomposition plus a few
full input columns, to train language models with less memory and compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import Tensor, nn

PAPER = Paper(
    "LOST: Low-rank and Sparse Pre-training for Large Language Models",
    "Jiaxi Li et al.",
    2025,
    arxiv="2508.02668",
    tags=("optimize", "architecture", "pre-training", "language-model"),
    summary=(
        "Rebuilds each linear layer before pre-training as a low-rank path from a singular value decomposition plus a "
        "few full input columns, to train language models with less memory and compute."
    ),
)
PARTS: tuple[str, ...] = ("layers.lost",)

RATES = (3e-3, 1e-2)


@dataclass(frozen=True)
class Size:
    """The decoder, what it reads in a step, and how many steps."""

    layers: int = 2
    width: int = 64
    length: int = 64
    batch: int = 16
    steps: int = 80
    rows: int = 600


SIZES: Mapping[Budget, Size] = {
    "cpu": Size(),
    "gpu": Size(layers=4, width=256, length=128, steps=800, rows=1000),
}


@cache
def text(size: Size) -> tuple[Tensor, Tensor]:
    """English prose as windows of tokens [N, length]: to train on, and held out."""
    import torch

    from palimpsest.zoo.models import tiny_llama
    from palimpsest.zoo.text import general_text

    _, tokenizer = tiny_llama(512, 1, 16)
    parts = []
    every, read = general_text(size.rows), size.rows * 9 // 10
    for rows in (every[:read], every[read:]):
        ids = torch.tensor([token for r in rows for token in tokenizer(r["text"])["input_ids"]])
        parts.append(ids[: len(ids) // size.length * size.length].view(-1, size.length))
    return parts[0], parts[1]


@dataclass(frozen=True)
class Arm:
    """How a linear layer with fresh weights is rebuilt: its rank, whether columns are kept, how the factors start.

    ``rank`` is that in a decoder of width 64 and grows with the width.
    """

    rank: int
    columns: bool
    decomposed: bool

    def layer(self, linear: nn.Linear, width: int) -> nn.Module:
        """The layer in its place."""
        from torch import nn

        from palimpsest.layers.lost import LowRankSparseLinear

        rank = self.rank * width // 64
        if self.columns:
            return LowRankSparseLinear.of(linear, rank, 1 / 16)
        outputs, inputs = linear.weight.shape
        right = nn.Linear(inputs, rank, bias=False)
        left = nn.Linear(rank, outputs, bias=False)
        if self.decomposed:
            whole = LowRankSparseLinear.of(linear, rank)
            right.weight.data, left.weight.data = whole.right.data, whole.left.data
        else:  # as CoLA and the authors' later code start factors at random
            std = (rank * (inputs + outputs)) ** -0.25
            nn.init.normal_(right.weight, std=std)
            nn.init.normal_(left.weight, std=std)
        return nn.Sequential(right, left)


ARMS: Mapping[str, Arm | None] = {
    "dense": None,
    "LOST": Arm(12, True, True),
    "low rank, random start": Arm(15, False, False),
    "low rank, decomposed start": Arm(15, False, True),
}


def decoder(arm: Arm | None, size: Size, seed: int) -> tuple[nn.Module, int]:
    """A decoder, and the number of parameters in its attention and MLP layers."""
    import torch

    from palimpsest.layers._replace import linears, replace
    from palimpsest.zoo.models import tiny_llama

    model, _ = tiny_llama(512, size.layers, size.width, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arm is not None:
            for name, linear in linears(model, lambda n: "attn" in n or "mlp" in n, "to replace"):
                replace(model, name, arm.layer(linear, size.width))
    inside = [module for name, module in model.named_modules() if name.endswith("_proj")]
    return model, sum(p.numel() for m in inside for p in m.parameters())


def held_out_loss(arm: Arm | None, lr: float, budget: Budget, seed: int) -> float:
    """Nats a token on held-out windows, after the steps of AdamW."""
    import torch
    import torch.nn.functional as F

    from palimpsest.claims._facts import device_of

    size, device = SIZES[budget], device_of(budget)
    steps = size.steps
    train, held = (part.to(device) for part in text(size))
    model = decoder(arm, size, seed)[0].to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(seed)

    def loss(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    for step in range(steps):
        warm, rest = min(1.0, (step + 1) / 10), 1 - 0.9 * step / steps
        optimizer.param_groups[0]["lr"] = lr * warm * rest
        optimizer.zero_grad()
        rows = torch.randint(0, len(train), (size.batch,), generator=generator).to(device)
        loss(train[rows]).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return float(loss(held[:96]))


@cache
def _measured(budget: Budget, seeds: tuple[int, ...]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Held-out losses of every arm over seeds, each at its better learning rate on a further seed; those rates."""
    extra = 100 + max(seeds)
    tried = {(n, lr): held_out_loss(arm, lr, budget, extra) for n, arm in ARMS.items() for lr in RATES}
    rates = {n: min(RATES, key=lambda lr, n=n: tried[n, lr]) for n in ARMS}  # type: ignore[misc]
    return {n: [held_out_loss(arm, rates[n], budget, seed) for seed in seeds] for n, arm in ARMS.items()}, rates


def _evidence(
    budget: Budget, seeds: Sequence[int], minuend: str, other: str, side: str, beyond: float, smaller: bool = False
) -> Evidence:
    """The verdict on one difference of held-out losses, with the figures of all arms."""
    from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds

    losses, rates = _measured(budget, tuple(seeds))
    size = SIZES[budget]
    parameters = {name: decoder(arm, size, 0)[1] for name, arm in ARMS.items()}
    gap = over_seeds([a - b for a, b in zip(losses[minuend], losses[other])])
    name = f"held-out loss of {minuend} minus {other}"
    conditions = [Condition(name, gap, "above" if side == "above" else "below", beyond, "nats a token")]
    if smaller:
        share = parameters[minuend] / parameters[other]
        conditions.append(Condition("share of the dense layers' parameters", exact(share), "below", 0.6))
    figures = [figure(f"held-out loss, {n}", over_seeds(values), "nats a token") for n, values in losses.items()]
    figures += [figure(f"parameters, {n}", exact(count)) for n, count in parameters.items()]
    settings = {"width": size.width, "steps": size.steps, "tokens a step": size.batch * size.length}
    return evidence(conditions, figures, {**settings, **{f"rate of {n}": r for n, r in rates.items()}}, len(conditions))


class BetterThanRandomLowRank(Claim):
    """A decoder of two blocks of width 64 reads 80 x 1,024 tokens of English prose (on a GPU: four of 256, ten times
    as many steps of 2,048, and ranks in proportion).

    Each arm has the learning rate, of two, with the lower loss on a further seed.  LOST has rank 12 and a sixteenth of
    the columns, the low-rank layers have rank 15 and 3 % more parameters.  Shown when the held-out loss of low-rank
    layers with a random start exceeds that of LOST by more than 0.02 nats a token, over seeds.
    """

    says = "At an equal number of parameters LOST reaches a lower loss than low-rank layers with a random start."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Four arms, of which one tells how much of it the decomposed start gives."""
        return _evidence(budget, seeds, "low rank, random start", "LOST", "above", 0.02)


class AsGoodAsDense(Claim):
    """The same runs.

    Shown when the held-out loss of LOST exceeds that of dense layers by less than 0.05 nats a token, over seeds, with
    less than 0.6 times as many parameters in the attention and MLP layers.
    """

    says = "LOST trains as well as dense layers of the same size with about half of their parameters."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The dense and the LOST arm."""
        return _evidence(budget, seeds, "LOST", "dense", "below", 0.05, smaller=True)
