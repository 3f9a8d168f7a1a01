"""Weights every sequence of a pre-training batch by a simple function of its current loss, so that easy and redundant
text counts for less and language models make better use of their data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.audit import Row, Scores
    from palimpsest.objective import Objective
    from palimpsest.objectives.reweighted import Strategy

PAPER = Paper(
    "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
    "Daouda Sow et al.",
    2025,
    arxiv="2502.06733",
    venue="ICLR 2025",
    tags=("optimize", "loss", "data-selection", "pre-training", "language-model"),
    summary=(
        "Weights every sequence of a pre-training batch by a simple function of its current loss, so that easy and "
        "redundant text counts for less and language models make better use of their data."
    ),
)
PARTS: tuple[str, ...] = ("objectives.reweighted",)

STRATEGIES: tuple[Strategy, ...] = ("linupper", "quadratic", "extremes")


class FewerSteps(Claim):
    """Linear regression in 50 dimensions by SGD, where nine rows of ten lie in five of them.

    Counted are the steps until the error on rows of all dimensions is a hundredth of what it was at the start, with r
    0.4 and batches of 64; three problems a seed.  Shown when uniform weights need more than 1.1 times the steps of
    linupper, and the other two strategies more than linupper; in part when only the first holds.
    """

    says = "Playing down sequences of low loss reaches the same error in fewer steps where most data is redundant."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """All strategies see the same batches."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds

        problems = [f"{seed}/{i}" for seed in seeds for i in range(3)]
        steps = {s: [float(_steps_to_learn(s, problem)) for problem in problems] for s in (None, *STRATEGIES)}
        conditions = []
        for other in (None, "quadratic", "extremes"):
            ratio = over_seeds([slow / fast for slow, fast in zip(steps[other], steps["linupper"])])
            what = f"steps with {other or 'uniform'} over steps with linupper"
            conditions.append(Condition(what, ratio, "above", 1.1 if other is None else 1.0))
        figures = [figure(f"steps with {name or 'uniform'}", over_seeds(found)) for name, found in steps.items()]
        return evidence(conditions, figures, {"r": 0.4, "batch": 64, "learning rate": 0.01})


def _steps_to_learn(strategy: Strategy | None, problem: str) -> int:
    """Steps of SGD until the test error is a hundredth of the first; at most 5,000."""
    import torch

    from palimpsest.objectives.reweighted import loss_weights
    from palimpsest.roles import seeded

    generator = torch.Generator().manual_seed(seeded("regression", problem))
    truth = torch.randn(50, generator=generator, dtype=torch.float64)
    narrow = torch.linalg.qr(torch.randn(50, 5, generator=generator, dtype=torch.float64)).Q  # [50, 5]

    def rows(count: int, redundant: float) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 50, generator=generator, dtype=torch.float64)
        known = torch.rand(count, 1, generator=generator, dtype=torch.float64) < redundant
        x = torch.where(known, x @ narrow @ narrow.T, x)
        return x, x @ truth + 0.05 * torch.randn(count, generator=generator, dtype=torch.float64)

    x_test, y_test = rows(500, 0.0)
    weights = torch.zeros(50, dtype=torch.float64)
    first = float(y_test.square().mean())
    every = torch.ones(64, dtype=torch.bool)
    for step in range(5_000):
        x, y = rows(64, 0.9)
        residual = x @ weights - y  # [64]
        losses = residual.square()
        share = torch.full_like(losses, 1 / 64) if strategy is None else loss_weights(losses, every, strategy, 0.4)
        weights -= 0.01 * 2 * (share * residual) @ x
        if float((x_test @ weights - y_test).square().mean()) < 0.01 * first:
            return step + 1
    return 5_000


class BetterOnNewText(Claim):
    """A decoder of two layers learns to write: half of its rows repeat 20 templates, half are new text of a grammar.

    200 steps of 32 rows of 16 words, none of the new text seen twice; the loss is measured on 300 further rows of the
    grammar, in nats a word.  r is 0.4 after 20 steps with uniform weights.  Shown when linupper's loss is lower than
    that of uniform weights by more than 0.01, and lower than the quadratic strategy's; in part when only the first
    holds.
    """

    says = "Pre-training with sequences of low loss played down gives the lower loss on the text that is not redundant."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Paired by row, over seeds."""
        from palimpsest.claims._evidence import Condition, evidence, figure
        from palimpsest.objectives.cross_entropy import CrossEntropy
        from palimpsest.objectives.reweighted import Reweighted
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        arms: Mapping[str, Objective] = {
            "uniform": CrossEntropy(),
            "linupper": Reweighted(CrossEntropy(), "linupper", temperature=0.4, burn_in=BURN_IN),
            "quadratic": Reweighted(CrossEntropy(), "quadratic", temperature=0.4, burn_in=BURN_IN),
        }
        losses = {name: [_loss_on_new_text(arm, budget, seed) for seed in seeds] for name, arm in arms.items()}
        conditions = [
            Condition(
                f"loss of {other} minus that of linupper",
                paired_bootstrap_over_seeds(losses["linupper"], losses[other]),
                "above",
                beyond,
                "nats",
            )
            for other, beyond in (("uniform", 0.01), ("quadratic", 0.0))
        ]
        figures = [figure(f"loss on new text, {n}", bootstrap_over_seeds(found), "nats") for n, found in losses.items()]
        settings = {"r": 0.4, "burn-in": BURN_IN, "steps": STEPS, "batch": BATCH, "learning rate": 3e-3}
        return evidence(conditions, figures, settings)


WORDS, LENGTH, STEPS, BATCH, BURN_IN = 64, 16, 200, 32, 20
DECODERS: Mapping[Budget, tuple[int, int]] = {"cpu": (2, 64), "gpu": (4, 256)}
"""Layers and width."""


def _grammar() -> list[list[int]]:
    """For each word, the four that may follow it."""
    generator = random.Random("grammar")
    return [generator.sample(range(WORDS), 4) for _ in range(WORDS)]


def _text(generator: random.Random, grammar: Sequence[Sequence[int]]) -> str:
    """Words, each drawn from the four after the one before, the first of them most often."""
    word, words = generator.randrange(WORDS), []
    for _ in range(LENGTH):
        words.append(f"w{word}")
        (word,) = generator.choices(grammar[word], (8, 4, 2, 1))
    return " ".join(words)


def _loss_on_new_text(objective: Objective, budget: Budget, seed: int) -> Scores:
    """Nats a word of each test row after training."""
    import torch

    from palimpsest.adapters.causal_lm import CausalLM
    from palimpsest.audit import Scores, row_ids
    from palimpsest.claims._facts import decoder, device_of, word_tokenizer
    from palimpsest.loop import Training, fit
    from palimpsest.objective import on
    from palimpsest.schedules.ramp import Ramp

    grammar, generator = _grammar(), random.Random(f"text/{seed}")
    templates = [_text(random.Random(f"template/{i}"), grammar) for i in range(20)]
    count = STEPS * BATCH // 2
    rows: list[Row] = [{"text": _text(generator, grammar)} for _ in range(count)]
    rows += [{"text": generator.choice(templates)} for _ in range(count)]
    held = random.Random("test")
    test: list[Row] = [{"id": f"t{i}", "text": _text(held, grammar)} for i in range(300)]
    words = [f"w{i}" for i in range(WORDS)]
    model = decoder(WORDS, *DECODERS[budget], seed).to(device_of(budget))
    adapter = CausalLM(word_tokenizer(words))
    training = Training(steps=STEPS, batch=BATCH, lr=3e-3, warmup=0.1, schedule=Ramp(1.0, 0.05))
    fit(model, adapter.roles(task=rows), on("task", objective), training, seed=seed)
    nats = torch.stack([-logp.double().mean() for logp in adapter.subject(model).logp(test)])
    return Scores("loss", nats, row_ids(test, "test"), better="lower")
