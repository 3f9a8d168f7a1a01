"""Teaches a small helper model only what should be forgotten and subtracts its logits while the target generates, for
people who want a language model to forget without training the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import nn

    from palimpsest.audit import Scores
    from palimpsest.claims._facts import Facts

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

    Shown when the assistant trains fewer than 1/3 of the parameters and a step takes less than 1/3 of the seconds, the
    threefold of the abstract; in part when only the first holds.
    """

    says = "ULD trains a small part of the parameters, in less than a third of the time of fine-tuning."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Seconds are those of training, without measurements."""
        from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds
        from palimpsest.claims._facts import SIZES, device_of, learned, unlearned
        from palimpsest.objective import on
        from palimpsest.objectives.cross_entropy import CrossEntropy
        from palimpsest.objectives.npo import NPO

        objective, steps = on("forget", NPO(0.5)) * (1 / 3) + on("retain", CrossEntropy()), 60
        ours, theirs, sizes = [], [], []
        for seed in seeds:
            facts = learned(SIZES[budget], seed, device_of(budget))
            assistant, seconds = _assistant(facts, seed, steps)
            run = unlearned(facts, objective, lr=1e-4, steps=steps, seed=seed, target=-1.0)
            ours.append(1000 * seconds / steps)
            theirs.append(1000 * run.seconds / steps)
            trained = sum(p.numel() for p in assistant.parameters() if p.requires_grad)
            sizes.append(trained / sum(p.numel() for p in facts.model.parameters()))
        ratio = over_seeds([own / other for own, other in zip(ours, theirs)])
        conditions = [
            Condition("share of the parameters that ULD trains", exact(max(sizes)), "below", 1 / 3),
            Condition("time of a step, ULD over NPO on all weights", ratio, "below", 1 / 3),
        ]
        figures = [
            figure("milliseconds a step, ULD", over_seeds(ours), "ms"),
            figure("milliseconds a step, NPO on all weights", over_seeds(theirs), "ms"),
        ]
        return evidence(conditions, figures, {"steps": steps, "layers of the assistant": 1})


class _Subtracted(NamedTuple):
    """What the decoder knows under the weakest subtraction that forgets, or the strongest where none does."""

    reached: bool
    alpha: float
    retain: Scores
    unseen: Scores


def _assistant(facts: Facts, seed: int, steps: int) -> tuple[nn.Module, float]:
    """The trained assistant and the seconds that its training took."""
    from palimpsest.loop import Training, fit
    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.uniform import Uniform
    from palimpsest.procedures.truncated_copy import TruncatedCopy

    assistant = TruncatedCopy(layers=1, dropout=0.0, seed=seed)(facts.model)
    roles = facts.adapter.roles(forget=facts.world.forget, retain=facts.world.retain)
    objective = on("forget", CrossEntropy()) + 5.0 * on("retain", Uniform())
    training = Training(steps=steps, batch=min(32, len(facts.world.forget)), lr=3e-3, clip=None)
    return assistant, fit(assistant, roles, objective, training, seed=seed).seconds


def _uld(facts: Facts, seed: int) -> _Subtracted:
    """ULD with the first strength of ``ALPHAS`` that forgets."""
    from palimpsest.claims._facts import FORGOTTEN, recall
    from palimpsest.interventions.logit_difference import LogitDifference

    assistant, _ = _assistant(facts, seed, 200)
    world = facts.world
    for alpha in ALPHAS:
        with LogitDifference(alpha, 0.05).attach(facts.model, {"assistant": assistant}) as model:
            forget, retain, unseen = (
                recall(facts.adapter, model, rows) for rows in (world.forget, world.retain, world.unseen)
            )
        reached = float(forget.items.mean()) <= FORGOTTEN
        if reached:
            break
    return _Subtracted(reached, alpha, retain, unseen)
