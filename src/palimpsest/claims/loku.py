"""Pairs a forget loss that hands probability from the unwanted token to its closest rival with LoRA adapters started
from the weights the forget data uses most, for cheap unlearning of language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.claims._facts import Facts, Trajectory

PAPER = Paper(
    "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs",
    "Cha et al.",
    2024,
    arxiv="2408.06621",
    venue="ICLR 2025",
    tags=("forget", "unlearning", "loss", "adapter", "weight-edit", "language-model"),
    summary=(
        "Pairs a forget loss that hands probability from the unwanted token to its closest rival with LoRA adapters "
        "started from the weights the forget data uses most, for cheap unlearning of language models."
    ),
)
PARTS: tuple[str, ...] = ("objectives.inverted_hinge", "edits.fila")


class InvertedHingeIsStable(Claim):
    """A tiny decoder that knows random facts forgets a tenth of the subjects, half of the other facts being replayed.

    All weights are trained, with the same three learning rates for both losses, until the forget recall is at most
    0.05.  Shown when the recall of the facts to be kept is then higher with the inverted hinge at every learning rate,
    and its loss never left [0, 2].  Gradient ascent's lowest loss is reported beside it.
    """

    says = "The inverted hinge loss is bounded and keeps more of the rest than gradient ascent at equal learning rate."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Three learning rates a loss and seed."""
        from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds
        from palimpsest.claims._facts import SIZES, device_of, kept_when_forgotten, learned
        from palimpsest.objective import on
        from palimpsest.objectives.cross_entropy import CrossEntropy
        from palimpsest.objectives.gradient_ascent import GradientAscent
        from palimpsest.objectives.inverted_hinge import InvertedHinge
        from palimpsest.statistics import paired_bootstrap_over_seeds

        rates, steps = (1e-4, 3e-4, 1e-3), 250
        known = [learned(SIZES[budget], seed, device_of(budget)) for seed in seeds]
        retain = on("retain", CrossEntropy())
        losses: dict[str, list[float]] = {"hinge": [], "ascent": []}
        conditions, figures, missed = [], [], 0
        for rate in rates:
            hinge = kept_when_forgotten(known, seeds, on("forget", InvertedHinge()) + retain, rate, steps)
            ascent = kept_when_forgotten(known, seeds, on("forget", GradientAscent()) + retain, rate, steps)
            change = paired_bootstrap_over_seeds(ascent.scores, hinge.scores)
            conditions.append(
                Condition(f"recall of what is kept, hinge minus ascent at {rate:g}", change, "above", 0.0)
            )
            for name, found in (("hinge", hinge), ("ascent", ascent)):
                missed += found.missed
                losses[name] += [value for run in found.runs for value in run.losses]
                figures += found.figures(f"{name}, {rate:g}")
        conditions += [
            Condition("runs that never forgot", exact(missed), "below", 1),
            Condition("lowest loss of the hinge", exact(min(losses["hinge"])), "above", -1e-6),
            Condition("highest loss of the hinge", exact(max(losses["hinge"])), "below", 2 + 1e-6),
        ]
        figures.append(figure("lowest loss of gradient ascent", over_seeds([min(losses["ascent"])])))
        return evidence(conditions, figures, {"most steps": steps}, needed=len(conditions))


class FilaNeedsFewerSteps(Claim):
    """The same decoder with LoRA of rank 8 on every linear layer but the head, inverted hinge and replay.

    FILA and the default start (B = 0) train with the same three learning rates.  A fact's value is the step after which
    it was first not recalled (one more than all steps where that never happened), averaged over the forget set.  Shown
    when it is lower with FILA at every learning rate; in part when at the best learning rate of each, the one with the
    fewest steps, but not at every one.
    """

    says = "Started by FILA, LoRA adapters forget in fewer steps than from the default start at equal learning rate."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Three learning rates a start and seed."""
        from palimpsest.claims._evidence import Condition, evidence, figure
        from palimpsest.claims._facts import SIZES, device_of, learned, what_is_kept
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        rates, steps, rank = (3e-4, 1e-3, 3e-3), 120, 8
        known = [learned(SIZES[budget], seed, device_of(budget)) for seed in seeds]
        forget = known[0].world.forget
        found, figures = {}, []
        for rate in rates:
            for start in ("default", "FILA"):
                runs = [
                    _with_lora(facts, seed, rate, steps, rank, start == "FILA") for facts, seed in zip(known, seeds)
                ]
                found[start, rate] = [run.steps_lost(forget, steps) for run in runs]
                kept = what_is_kept(known, runs)
                figures += [
                    figure(f"steps until a fact is lost, {start}, {rate:g}", bootstrap_over_seeds(found[start, rate])),
                    figure(f"recall of what is kept, {start}, {rate:g}", bootstrap_over_seeds(kept.scores)),
                ]
        best = {
            start: min((sum(float(s.items.mean()) for s in found[start, rate]), rate) for rate in rates)[1]
            for start in ("default", "FILA")
        }
        change = paired_bootstrap_over_seeds(found["default", best["default"]], found["FILA", best["FILA"]])
        conditions = [Condition("steps with FILA minus default, each at its best", change, "below", 0.0)]
        for rate in rates:
            change = paired_bootstrap_over_seeds(found["default", rate], found["FILA", rate])
            conditions.append(Condition(f"the same at learning rate {rate:g}", change, "below", 0.0))
        settings = {f"best rate of {start}": rate for start, rate in best.items()}
        return evidence(conditions, figures, {"rank": rank, "most steps": steps, **settings})


def _with_lora(facts: Facts, seed: int, rate: float, steps: int, rank: int, fila: bool) -> Trajectory:
    """One run of a fresh adapter on a copy of the decoder."""
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    from palimpsest.claims._facts import unlearned
    from palimpsest.edits.fila import Fila
    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.inverted_hinge import InvertedHinge

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(facts.model), config)
    if fila:
        roles = facts.adapter.roles(forget=facts.world.forget, retain=facts.world.retain)
        Fila(seed=seed)(model, roles).apply(model)
    objective = on("forget", InvertedHinge()) + on("retain", CrossEntropy())
    return unlearned(facts, objective, lr=rate, steps=steps, seed=seed, model=model, reference=False)
