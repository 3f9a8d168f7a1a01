"""Unlearns from the forget prompts alone by pulling a language model toward a stock refusal and away from the answer
to be lost, balanced by an f-divergence, for people who hold no retain data or reference model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.audit import Row, Scores
    from palimpsest.claims._facts import Facts, Trajectory
    from palimpsest.objective import Term, Total

PAPER = Paper(
    "LLM Unlearning via Loss Adjustment with Only Forget Data",
    "Wang et al.",
    2024,
    arxiv="2410.11143",
    venue="ICLR 2025",
    tags=("forget", "unlearning", "loss", "language-model"),
    summary=(
        "Unlearns from the forget prompts alone by pulling a language model toward a stock refusal and away from the "
        "answer to be lost, balanced by an f-divergence, for people who hold no retain data or reference model."
    ),
)
PARTS: tuple[str, ...] = ("objectives.flat",)

DIVERGENCES = ("total_variation", "kl")


class ReplacesTheAnswer(Claim):
    """A tiny decoder that knows random facts, and to say that it does not know strangers, unlearns for 150 steps.

    No method sees retain data.  Shown when, for total variation and for KL, the average probability P of the forget
    answers falls below 0.05 and that of the refusal rises above 0.9 on forget prompts, and the loss stays where
    probabilities in [0, 1] keep it: above -0.3808 for total variation (-tanh(1) / 2), above -0.6322 for KL (1/e - 1).
    Gradient ascent's loss after as many steps is reported beside it.
    """

    says = (
        "FLAT moves a forget prompt from its answer to the refusal with forget data alone, by a loss that is bounded."
    )

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """One learning rate, the same for all."""
        from palimpsest.claims._evidence import Condition, evidence, exact, figure
        from palimpsest.claims._facts import SIZES, device_of, learned, unlearned
        from palimpsest.statistics import bootstrap_over_seeds

        steps, rate = 150, 3e-4
        bounds = {"total_variation": -0.3808, "kl": -0.6322}
        known = [learned(SIZES[budget], seed, device_of(budget)) for seed in seeds]
        runs = {
            name: [
                unlearned(facts, objective, lr=rate, steps=steps, seed=seed, target=-1.0)
                for facts, seed in zip(known, seeds)
            ]
            for name, objective in _objectives().items()
            if name in ("gradient ascent", *DIVERGENCES)
        }
        forget = known[0].world.forget
        conditions, figures = [], []
        for name in DIVERGENCES:
            answer = _probabilities(known, runs[name], forget)
            refusal = _probabilities(known, runs[name], _refused(forget))
            lowest = exact(min(min(run.losses) for run in runs[name]))
            conditions += [
                Condition(f"P of the forget answer, {name}", bootstrap_over_seeds(answer), "below", 0.05),
                Condition(f"P of the refusal, {name}", bootstrap_over_seeds(refusal), "above", 0.9),
                Condition(f"lowest loss, {name}", lowest, "above", bounds[name]),
            ]
        figures.append(
            figure("lowest loss, gradient ascent", exact(min(min(r.losses) for r in runs["gradient ascent"])))
        )
        for name, found in runs.items():
            leaked = _probabilities(known, found, _refused(known[0].world.retain))
            figures.append(figure(f"P of the refusal on retain prompts, {name}", bootstrap_over_seeds(leaked)))
        return evidence(conditions, figures, {"steps": steps, "learning rate": rate})


class KeepsMoreWithoutRetainData(Claim):
    """The same decoder, unlearned without retain data until the forget recall is at most 0.05.

    Each method has the learning rate at which it keeps most.  Shown when the recall of the facts to be kept is higher
    by more than 0.05 with FLAT (the better of total variation and KL) than with gradient ascent, and a refusal is the
    greedy answer to fewer than a tenth of the prompts to be kept.

    What this decoder can show: whether the loss does what it says, and over-refusal.  What it cannot: its facts are
    arbitrary and share everything, so that every method without retain data may lose them all, where a pretrained model
    has knowledge apart.  A verdict "not shown" here says nothing of such a model.
    """

    says = "Without retain data, FLAT keeps more of the rest than gradient ascent at equal forgetting."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Three learning rates a method and seed; NPO and cross-entropy on the refusal alone beside them."""
        from palimpsest.claims._evidence import Condition, evidence, exact, figure
        from palimpsest.claims._facts import SIZES, device_of, kept_when_forgotten, learned, recall
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        rates, steps = (1e-4, 3e-4, 1e-3), 120
        known = [learned(SIZES[budget], seed, device_of(budget)) for seed in seeds]
        kept, best = {}, {}
        for name, objective in _objectives().items():
            tried = {rate: kept_when_forgotten(known, seeds, objective, rate, steps) for rate in rates}
            best[name] = max((-tried[rate].missed, tried[rate].mean, rate) for rate in rates)[2]
            kept[name] = tried[best[name]]
        chosen = max(DIVERGENCES, key=lambda name: (-kept[name].missed, kept[name].mean))
        rest = _refused([*known[0].world.retain, *known[0].world.unseen])
        refused = {
            name: bootstrap_over_seeds([recall(f.adapter, run.model, rest) for f, run in zip(known, found.runs)])
            for name, found in kept.items()
        }
        missed = kept["gradient ascent"].missed + kept[chosen].missed
        gain = paired_bootstrap_over_seeds(kept["gradient ascent"].scores, kept[chosen].scores)
        conditions = [
            Condition("runs that never forgot", exact(missed), "below", 1),
            Condition(f"recall of what is kept, FLAT ({chosen}) minus gradient ascent", gain, "above", 0.05),
            Condition(
                f"share of the prompts to be kept that are refused, FLAT ({chosen})", refused[chosen], "below", 0.1
            ),
        ]
        figures = []
        for name, found in kept.items():
            figures += [*found.figures(name), figure(f"share refused of what is kept, {name}", refused[name])]
        rate_of = {f"best rate of {name}": rate for name, rate in best.items()}
        return evidence(conditions, figures, rate_of, needed=2)


def _objectives() -> dict[str, Total | Term]:
    """The methods that need no retain data, by name."""
    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.flat import FLAT
    from palimpsest.objectives.gradient_ascent import GradientAscent
    from palimpsest.objectives.npo import NPO

    pair = ("forget", "refusal")
    return {
        "gradient ascent": on("forget", GradientAscent()),
        "NPO": on("forget", NPO(0.5)) * (1 / 3),  # three tokens an answer: the gradient of the mean over tokens
        "refusal alone": on("refusal", CrossEntropy()),
        "total_variation": on(pair, FLAT("total_variation")),
        "kl": on(pair, FLAT("kl")),
    }


def _refused(rows: Sequence[Row]) -> list[Row]:
    """The same prompts with the refusal as their answer."""
    from palimpsest.claims._facts import REFUSAL

    return [{**row, "completion": REFUSAL} for row in rows]


def _probabilities(known: Sequence[Facts], runs: Sequence[Trajectory], rows: Sequence[Row]) -> list[Scores]:
    """The average probability of each row's answer tokens, a run a seed."""
    import torch

    from palimpsest.audit import Scores, row_ids
    from palimpsest.objectives.flat import answer_probability

    found = []
    for facts, run in zip(known, runs, strict=True):
        logp = torch.stack(facts.adapter.subject(run.model).logp(rows)).double()  # [N, 3]
        items = answer_probability(logp, torch.ones_like(logp, dtype=torch.bool))
        found.append(Scores("probability", items, row_ids(rows, "fact")))
    return found
