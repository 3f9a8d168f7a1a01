"""Fine-tunes a reasoning model for the chance that any of several samples is right, which curbs overconfidence and
keeps accuracy from falling when many answers may be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Figure, Paper

if TYPE_CHECKING:
    from palimpsest.audit import Row, Scores
    from palimpsest.objective import Objective
    from palimpsest.statistics import Interval

PAPER = Paper(
    "Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves Mathematical Reasoning",
    "Chen, Raventos et al.",
    2025,
    arxiv="2502.07154",
    venue="NeurIPS 2025",
    tags=("learn", "loss", "reasoning", "fine-tuning", "language-model"),
    summary=(
        "Fine-tunes a reasoning model for the chance that any of several samples is right, which curbs overconfidence "
        "and keeps accuracy from falling when many answers may be drawn."
    ),
)
PARTS: tuple[str, ...] = ("objectives.confidence_limited", "audits.pass_at_n")

STEPS, EARLY, BATCH, RATE = 240, 60, 64, 1e-3
"""The steps of a run, of which 200 training rows are seen 77 times, and the steps after which it is looked at early."""
TRIES = (1, 16, 64)
"""The N of pass@N."""
DECODERS: Mapping[Budget, tuple[int, int]] = {"cpu": (2, 64), "gpu": (4, 256)}
"""Layers and width."""


class CoverageFalls(Claim):
    """A tiny decoder learns questions of three words whose answers, of two, are uncertain: 200 rows, one answer each.

    The exact pass@N on 500 other questions is measured after 60 and after 240 steps of cross-entropy.  Shown when
    pass@64 falls by more than 0.05 and pass@1 does not fall by more than 0.02; in part when only the first holds.
    """

    says = "Fine-tuned longer with cross-entropy, a model finds fewer answers in many samples, though not in one."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Paired by question, over seeds."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.statistics import paired_bootstrap_over_seeds

        runs = [_run(budget, seed, 1.0) for seed in seeds]

        def change(n: int) -> Interval:
            return paired_bootstrap_over_seeds([r.early[n] for r in runs], [r.late[n] for r in runs])

        conditions = [
            Condition("pass@64, late minus early", change(64), "below", -0.05),
            Condition("pass@1, late minus early", change(1), "above", -0.02),
        ]
        return evidence(conditions, _figures({"cross-entropy": runs}), _SETTINGS)


class TradesOneForMany(Claim):
    """The same questions, and direct coverage optimization (DCO) with N of 16 and 64 in place of cross-entropy.

    Shown when, after 240 steps, DCO for 64 samples is above cross-entropy by more than 0.05 in pass@64, DCO for 16 by
    as much in pass@16, and cross-entropy is above DCO for 64 samples in pass@1; in part when only the first holds.
    """

    says = "Limiting confidence for N samples gives the better pass@N, at the price of the first answer."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Paired by question, over seeds."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.statistics import paired_bootstrap_over_seeds

        runs = {n: [_run(budget, seed, float(n)) for seed in seeds] for n in TRIES}

        def gain(n: int, better: int, than: int) -> Interval:
            return paired_bootstrap_over_seeds([r.late[n] for r in runs[than]], [r.late[n] for r in runs[better]])

        conditions = [
            Condition("pass@64 of DCO for 64 minus cross-entropy's", gain(64, 64, 1), "above", 0.05),
            Condition("pass@16 of DCO for 16 minus cross-entropy's", gain(16, 16, 1), "above", 0.05),
            Condition("pass@1 of cross-entropy minus that of DCO for 64", gain(1, 1, 64), "above", 0.0),
        ]
        named = {"cross-entropy" if n == 1 else f"DCO for {n}": found for n, found in runs.items()}
        return evidence(conditions, _figures(named), _SETTINGS)


_SETTINGS: dict[str, str | int | float | bool] = {
    "steps": STEPS,
    "steps of early": EARLY,
    "batch": BATCH,
    "learning rate": RATE,
}


@dataclass
class _Run:
    """N -> the exact pass@N of each test question, early in training and at its end."""

    early: dict[int, Scores] = field(default_factory=dict)
    late: dict[int, Scores] = field(default_factory=dict)


def _figures(runs: Mapping[str, Sequence[_Run]]) -> list[Figure]:
    from palimpsest.claims._evidence import figure
    from palimpsest.statistics import bootstrap_over_seeds

    return [
        figure(f"pass@{n} of {name}, {when}", bootstrap_over_seeds([getattr(run, when)[n] for run in found]))
        for name, found in runs.items()
        for when in ("early", "late")
        for n in TRIES
    ]


WORDS, ANSWERS = 9, 8


def _questions() -> tuple[list[Row], list[Row]]:
    """200 training rows and 500 test rows, the same for every seed.

    Each word of a question adds to the log-odds of each answer word, so that what is learned of one question tells
    something of another; the likeliest word has a probability of about six in ten.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    effect = 1.5 * torch.randn(2, 3, WORDS, ANSWERS, generator=generator)
    rows: list[Row] = []
    for number in torch.randperm(WORDS**3, generator=generator)[:700].tolist():
        words = (number // WORDS**2, number // WORDS % WORDS, number % WORDS)
        odds = [effect[place, [0, 1, 2], list(words)].sum(0) for place in range(2)]
        drawn = [int(torch.multinomial(o.softmax(0), 1, generator=generator)) for o in odds]
        prompt, answer = " ".join(f"{k}{w}" for k, w in zip("abc", words)), f"u{drawn[0]} v{drawn[1]}"
        rows.append({"id": f"q{number}", "prompt": prompt, "completion": answer, "answer": answer})
    return rows[:200], rows[200:]


def _objective(samples: float) -> Objective:
    from palimpsest.objectives.confidence_limited import DirectCoverageOptimization
    from palimpsest.objectives.cross_entropy import CrossEntropy

    return CrossEntropy() if samples == 1 else DirectCoverageOptimization(samples)


@cache
def _run(budget: Budget, seed: int, samples: float) -> _Run:
    """Trains a decoder for ``samples`` tries (1: cross-entropy) and measures it twice."""
    from palimpsest.adapters.causal_lm import CausalLM
    from palimpsest.audits.pass_at_n import PassAtN
    from palimpsest.claims._facts import decoder, device_of, word_tokenizer
    from palimpsest.loop import Progress, Training, fit
    from palimpsest.objective import on

    words = [f"{kind}{i}" for kind in "abc" for i in range(WORDS)]
    words += [f"{kind}{i}" for kind in "uv" for i in range(ANSWERS)]
    train, test = _questions()
    model = decoder(len(words), *DECODERS[budget], seed).to(device_of(budget))
    adapter, found = CausalLM(word_tokenizer(words)), _Run()

    def measure() -> dict[int, Scores]:
        return {n: PassAtN(n=n, how="exact")(adapter.subject(model), {"test": test}, "test") for n in TRIES}

    def watch(progress: Progress) -> None:
        if progress.step == EARLY:
            found.early = measure()

    training = Training(steps=STEPS, batch=BATCH, lr=RATE, warmup=0.05)
    fit(model, adapter.roles(task=train), on("task", _objective(samples)), training, seed=seed, on_step=watch)
    found.late = measure()
    return found
