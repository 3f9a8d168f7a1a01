"""Continues training language models on graded doses of junk social-media text under otherwise equal conditions and
measures what reasoning, long-context use and safety lose, and what later training wins back."""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.claim import Budget, Claim, Evidence, Paper

PAPER = Paper(
    'LLMs Can Get "Brain Rot"!',
    "Shuo Xing, Junyuan Hong, Yifan Wang et al.",
    2025,
    arxiv="2510.13928",
    tags=("retain", "audit", "continual-learning", "data-selection", "benchmark", "safety", "language-model"),
    summary=(
        "Continues training language models on graded doses of junk social-media text under otherwise equal "
        "conditions and measures what reasoning, long-context use and safety lose, and what later training wins back."
    ),
)
PARTS: tuple[str, ...] = (
    "selectors.junk",
    "procedures.dose_sweep",
    "audits.needle_retrieval",
    "audits.multiple_choice",
    "audits.final_answer",
    "audits.skipped_steps",
)


class EngagementDose(Claim):
    """Doses 0, 0.2, 0.5, 0.8 and 1 of popular short posts in the continued training of a tiny decoder, tuned after it.

    Shown when the slopes of recalled notes (a context of 80 words) and of right sums against the dose lie below -0.05,
    and in full when that of known facts does too, and when a decoder that read nothing but junk, and was then given
    control text of the same length or four times the tuning, still recalls fewer notes, by more than 0.05, than one
    that was only tuned.
    """

    says = "The more of a continued pre-training is popular short posts, the less a model recalls and works out."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Five doses, tuning alone, and two ways to heal a seed."""
        from palimpsest.claims._doses import PROBES, SIZES, curve, effect, other, points
        from palimpsest.claims._evidence import Condition, evidence, figure
        from palimpsest.claims._facts import device_of
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        study, device = SIZES[budget], device_of(budget)
        curves = {probe: curve(study, "engagement", probe, seeds, device) for probe in PROBES}
        conditions = [
            Condition(f"slope of {probe} against the dose", curves[probe].slope, "below", -0.05)
            for probe in ("recalled notes", "right sums", "known facts")
        ]
        tuned = [other(study, "tuning alone", seed, device) for seed in seeds]
        for how in ("healed by control text", "healed by tuning"):
            runs = [other(study, how, seed, device) for seed in seeds]
            gap = paired_bootstrap_over_seeds(
                [run["recalled notes"] for run in runs], [run["recalled notes"] for run in tuned]
            )
            conditions.append(Condition(f"recalled notes that stay lost, {how}", gap, "above", 0.05))
        figures = []
        for probe in PROBES:
            figures += points(probe, curves[probe], effect(study, "engagement", probe, seeds, device))
            figures.append(figure(f"{probe}, tuning alone", bootstrap_over_seeds([run[probe] for run in tuned])))
        return evidence(conditions, figures, study.settings, needed=2)


class LengthDose(Claim):
    """The same doses of pieces of fewer than 30 words of the very prose that is the control.

    Shown when the slope of recalled notes against the dose lies below -0.05, and in full when it lies more than 0.05
    below that of popular short posts.
    """

    says = "Short documents alone, of the same prose, take away recall from a long context, more than popular posts do."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Four more doses a seed; dose 0 is that of the other claim."""
        from palimpsest.claims._doses import PROBES, SIZES, curve, effect, points, slope_difference
        from palimpsest.claims._evidence import Condition, evidence, figure
        from palimpsest.claims._facts import device_of

        study, device = SIZES[budget], device_of(budget)
        curves = {probe: curve(study, "length", probe, seeds, device) for probe in PROBES}
        notes = "recalled notes"
        steeper = slope_difference(study, ("length", "engagement"), notes, seeds, device)
        conditions = [
            Condition(f"slope of {notes} against the dose", curves[notes].slope, "below", -0.05),
            Condition("the same minus that of popular short posts", steeper, "below", -0.05),
        ]
        figures = [figure(f"slope of {p} against the dose", curves[p].slope) for p in PROBES if p != notes]
        for probe in PROBES:
            figures += points(probe, curves[probe], effect(study, "length", probe, seeds, device))
        return evidence(conditions, figures, study.settings)


class InstrumentIsSound(Claim):
    """Doses 0, 0.5 and 1 of prose with its words shuffled, and of other prose of the same kind as the control.

    Shown when for shuffled words the slope of recalled notes lies below -0.2 and its rank correlation with the dose
    below -0.5, so that it falls at every step, and when for prose the intervals of the slopes of recalled notes and
    known facts, and of Hedges' g of recalled notes, cover 0.
    """

    says = "Shuffled words make a steady decline, and two halves of one corpus make none."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Two more doses a treatment and seed."""
        from palimpsest.claims._doses import ENDS, PROBES, SIZES, curve, effect, points
        from palimpsest.claims._evidence import Condition, evidence, exact, figure
        from palimpsest.claims._facts import device_of

        study, device = SIZES[budget], device_of(budget)
        notes = "recalled notes"
        shuffled = {probe: curve(study, "shuffled", probe, seeds, device, ENDS) for probe in PROBES}
        halves = {probe: curve(study, "halves", probe, seeds, device, ENDS) for probe in PROBES}
        null = {
            f"the slope of {notes}": halves[notes].slope,
            "the slope of known facts": halves["known facts"].slope,
            f"Hedges' g of {notes}": effect(study, "halves", notes, seeds, device),
        }
        conditions = [
            Condition(f"shuffled words: slope of {notes}", shuffled[notes].slope, "below", -0.2),
            Condition(f"shuffled words: rank correlation of {notes}", shuffled[notes].spearman, "below", -0.5),
            *(
                Condition(f"halves: the interval of {what} covers 0 (1 is yes)", exact(found.contains(0)), "above", 0.5)
                for what, found in null.items()
            ),
        ]
        figures = [figure(f"halves: slope of {probe}", halves[probe].slope) for probe in PROBES]
        for probe in PROBES:
            figures += points(f"shuffled: {probe}", shuffled[probe], effect(study, "shuffled", probe, seeds, device))
            figures += points(f"halves: {probe}", halves[probe], effect(study, "halves", probe, seeds, device))
        return evidence(conditions, figures, study.settings, needed=len(conditions))
