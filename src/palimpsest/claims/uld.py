"""Teaches a small helper model only what should be forgotten and subtracts its logits while the target generates, for
people who want a language model to forget without training the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import nn

    from palimpsest.audit import Scores
    from palimpsest.claims._facts import Facts
    from palimpsest.loop import Training
    from palimpsest.objective import Total
    from palimpsest.reference import Reference
    from palimpsest.roles import Roles

PAPER = Paper(
    "Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference",
    "Ji et al.",
    2024,
    arxiv="2406.08607",
    tags=("forget", "unlearning", "inference-time", "language-model"),
    summary=(
        "Teaches a small helper model only what should be forgotten and subtracts its logits while the target "
        "generates, for people who want a language model to forget without training the model itself."
    ),
)
PARTS: tuple[str, ...] = ("interventions.logit_difference", "objectives.uniform", "procedures.truncated_copy")

ALPHAS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)
"""The subtraction strengths that are tried, the weakest first; the first that forgets is taken."""
TURNS, STEPS = 6, 10
"""How often the assistant and all weights are trained in turn, and for how many steps, to compare their time."""


class KeepsWhatItNeverSaw(Claim):
    """A tiny decoder that knows random facts forgets a tenth of the subjects; half of the other facts are never seen.

    ULD's assistant (the first block, LoRA of rank 16) learns the forget set and to be flat on the retain set; the
    weakest subtraction with a forget recall of at most 0.05 is taken.  Gradient ascent and NPO, both with replay, stop
    at the first step with that recall, each at the learning rate (of three) at which it keeps most of the never seen
    facts.  Shown when ULD keeps more of the never seen facts than both, by more than 0.05, and in part when more than
    gradient ascent only.
    """

    says = (
        "At equal forgetting, ULD keeps more of the facts that unlearning never saw than methods that train the model."
    )

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """One assistant a seed; three learning rates for the others."""
        from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds
        from palimpsest.claims._facts import SIZES, device_of, kept_when_forgotten, learned
        from palimpsest.objective import on
        from palimpsest.objectives.cross_entropy import CrossEntropy
        from palimpsest.objectives.gradient_ascent import GradientAscent
        from palimpsest.objectives.npo import NPO
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        rates, steps = (1e-4, 3e-4, 1e-3), 200
        known = [learned(SIZES[budget], seed, device_of(budget)) for seed in seeds]
        ours = [_uld(facts, seed) for facts, seed in zip(known, seeds)]
        retain = on("retain", CrossEntropy())
        others = {
            "gradient ascent": on("forget", GradientAscent()) + retain,
            "NPO": on("forget", NPO(0.5)) * (1 / 3) + retain,
        }
        unseen = [found.unseen for found in ours]
        conditions = [Condition("ULD runs that never forgot", exact(sum(not f.reached for f in ours)), "below", 1)]
        figures = [
            figure("recall of never seen facts, ULD", bootstrap_over_seeds(unseen)),
            figure("recall of replayed facts, ULD", bootstrap_over_seeds([found.retain for found in ours])),
            figure("alpha, ULD", over_seeds([found.alpha for found in ours])),
        ]
        for name, objective in others.items():
            tried = [kept_when_forgotten(known, seeds, objective, rate, steps) for rate in rates]
            best = max(tried, key=lambda k: (-k.missed, sum(float(s.items.mean()) for s in k.unseen)))
            gain = paired_bootstrap_over_seeds(best.unseen, unseen)
            conditions.append(Condition(f"recall of never seen facts, ULD minus {name}", gain, "above", 0.05))
            figures.append(figure(f"recall of never seen facts, {name}", bootstrap_over_seeds(best.unseen)))
            figures.append(figure(f"runs that never forgot, {name}", exact(best.missed)))
        return evidence(conditions, figures, {"layers of the assistant": 1, "rank": 16, "most steps": steps}, needed=2)


class CheaperToTrain(Claim):
    """The same decoder and assistant against fine-tuning all weights (NPO with replay), at as many steps and rows.

    The two train in turns of ten steps.  A step's time is that of the processor (on a GPU that of the clock), the first
    of each turn left out; the ratio of a seed is the median over the turns of the ratio of their medians, which other
    work on the machine hardly moves.  Shown when the assistant trains fewer than 1/3 of the parameters and a step takes
    less than 1/3 of the time, the threefold of the abstract; in part when only the first holds.
    """

    says = "ULD trains a small part of the parameters, in less than a third of the time of fine-tuning."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Six turns each; nothing is measured in them but time."""
        from statistics import median

        from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds
        from palimpsest.claims._facts import SIZES, device_of, learned

        ratios, ours, theirs, sizes = [], [], [], []
        for seed in seeds:
            facts = learned(SIZES[budget], seed, device_of(budget))
            turns, share = _in_turns(facts, seed)
            ratios.append(median(own / other for own, other in turns))
            ours.append(1000 * median(own for own, _ in turns))
            theirs.append(1000 * median(other for _, other in turns))
            sizes.append(share)
        conditions = [
            Condition("share of the parameters that ULD trains", exact(max(sizes)), "below", 1 / 3),
            Condition("time of a step, ULD over NPO on all weights", over_seeds(ratios), "below", 1 / 3),
        ]
        figures = [
            figure("milliseconds a step, ULD", over_seeds(ours), "ms"),
            figure("milliseconds a step, NPO on all weights", over_seeds(theirs), "ms"),
        ]
        return evidence(conditions, figures, {"steps": TURNS * STEPS, "layers of the assistant": 1})


class _Subtracted(NamedTuple):
    """What the decoder knows under the weakest subtraction that forgets, or the strongest where none does."""

    reached: bool
    alpha: float
    retain: Scores
    unseen: Scores


def _assistant(facts: Facts, seed: int) -> tuple[nn.Module, Total, Training]:
    """The assistant before it is trained, its objective, and its settings but for the steps."""
    from palimpsest.loop import Training
    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.uniform import Uniform
    from palimpsest.procedures.truncated_copy import TruncatedCopy

    assistant = TruncatedCopy(layers=1, dropout=0.0, seed=seed)(facts.model)
    objective = on("forget", CrossEntropy()) + 5.0 * on("retain", Uniform())
    return assistant, objective, Training(steps=200, batch=min(32, len(facts.world.forget)), lr=3e-3, clip=None)


def _in_turns(facts: Facts, seed: int) -> tuple[list[tuple[float, float]], float]:
    """Median seconds of a step in each turn, of the assistant and of all weights, and the share that it trains."""
    import copy

    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.npo import NPO
    from palimpsest.reference import Copy

    assistant, objective, settings = _assistant(facts, seed)
    whole, frozen = copy.deepcopy(facts.model), Copy(facts.model)
    roles = facts.adapter.roles(forget=facts.world.forget, retain=facts.world.retain)
    npo = on("forget", NPO(0.5)) * (1 / 3) + on("retain", CrossEntropy())
    quick, slow = replace(settings, steps=STEPS), replace(settings, steps=STEPS, lr=1e-4)
    turns = [
        (_seconds(assistant, roles, objective, quick, seed), _seconds(whole, roles, npo, slow, seed, frozen))
        for _ in range(TURNS)
    ]
    trained = sum(p.numel() for p in assistant.parameters() if p.requires_grad)
    return turns, trained / sum(p.numel() for p in whole.parameters())


def _seconds(
    model: nn.Module, roles: Roles, total: Total, training: Training, seed: int, frozen: Reference | None = None
) -> float:
    """The median of a step but the first: of the processor, on a GPU of the clock."""
    import time
    from itertools import pairwise
    from statistics import median

    import torch

    from palimpsest.loop import Progress, fit

    marks: list[float] = []

    def mark(progress: Progress) -> None:
        if next(model.parameters()).is_cuda:
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
        else:
            marks.append(time.process_time())

    fit(model, roles, total, training, seed=seed, reference=frozen, on_step=mark)
    return median(end - start for start, end in pairwise(marks))


def _uld(facts: Facts, seed: int) -> _Subtracted:
    """ULD with the first strength of ``ALPHAS`` that forgets."""
    from palimpsest.claims._facts import FORGOTTEN, recall
    from palimpsest.interventions.logit_difference import LogitDifference
    from palimpsest.loop import fit

    world = facts.world
    assistant, objective, training = _assistant(facts, seed)
    fit(assistant, facts.adapter.roles(forget=world.forget, retain=world.retain), objective, training, seed=seed)
    for alpha in ALPHAS:
        with LogitDifference(alpha, 0.05).attach(facts.model, {"assistant": assistant}) as model:
            forget, retain, unseen = (
                recall(facts.adapter, model, rows) for rows in (world.forget, world.retain, world.unseen)
            )
        reached = float(forget.items.mean()) <= FORGOTTEN
        if reached:
            break
    return _Subtracted(reached, alpha, retain, unseen)
