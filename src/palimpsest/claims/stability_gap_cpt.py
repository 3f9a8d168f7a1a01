"""Shortens the early dip in accuracy when a language model moves into a new domain by several passes over a small
subset of good text, mixed in the proportions of the original pre-training data."""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.claim import Budget, Claim, Evidence, Paper

PAPER = Paper(
    "Efficient Continual Pre-training by Mitigating the Stability Gap",
    "Yiduo Guo et al.",
    2024,
    arxiv="2406.14833",
    venue="ACL 2025",
    tags=("retain", "continual-learning", "data-selection", "pre-training", "language-model"),
    summary=(
        "Shortens the early dip in accuracy when a language model moves into a new domain by several passes over a "
        "small subset of good text, mixed in the proportions of the original pre-training data."
    ),
)
PARTS: tuple[str, ...] = ("selectors.quality_subset", "curves", "drift")


class GoodSubsetAndMixtureShortenTheDip(Claim):
    """A tiny decoder knows half of a domain's 160 facts and reads documents about it, half of them shuffled words.

    80 steps of 8 documents each: the whole corpus once, a random fifth five times, the fifth that an n-gram model of
    other documents prefers, and that fifth with the rows of pre-training weighed 0.82 to 0.18.  The recall of the facts
    as questions is measured every second step.  Shown when, against reading all once, the good fifth with the mixture
    has a dip that is more than 2 points shallower and a peak that is more than 2 points higher; in part when the good
    fifth without the mixture does not also have the shallower dip.
    """

    says = "Several rounds of a small good subset, mixed as in pre-training, dip less and peak higher than all once."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """All arms make as many steps of as many documents."""
        from palimpsest.claims._evidence import Condition, evidence, exact, figure, over_seeds
        from palimpsest.claims._facts import device_of
        from palimpsest.claims._stages import ARMS, reading
        from palimpsest.curves import gap

        device = device_of(budget)
        readings = {arm: [reading(arm, seed, device) for seed in seeds] for arm in ARMS}
        gaps = {
            arm: [gap(*zip(*r.watched.curves["domain"], strict=True), better="higher") for r in own]
            for arm, own in readings.items()
        }
        plain, good, mixed = gaps["all once"], gaps["good subset"], gaps["good subset and mixture"]
        shallower = [100 * (a.depth - b.depth) for a, b in zip(plain, mixed, strict=True)]
        higher = [100 * (b.peak - a.peak) for a, b in zip(plain, mixed, strict=True)]
        alone = [100 * (a.depth - b.depth) for a, b in zip(plain, good, strict=True)]
        conditions = [
            Condition("dip of all once minus good subset and mixture", over_seeds(shallower), "above", 2.0, "points"),
            Condition("peak of good subset and mixture minus all once", over_seeds(higher), "above", 2.0, "points"),
            Condition("dip of all once minus good subset alone", over_seeds(alone), "above", 0.0, "points"),
        ]
        figures = []
        for arm, own in gaps.items():
            back = sum(g.recovery is not None for g in own)
            kept = [100 * r.general_after for r in readings[arm]]
            figures += [
                figure(f"depth of the dip, {arm}", over_seeds([100 * g.depth for g in own]), "points"),
                figure(f"area of the dip, {arm}", over_seeds([100 * g.area for g in own]), "points x steps"),
                figure(f"peak, {arm}", over_seeds([100 * g.peak for g in own]), "points"),
                figure(f"runs that recovered, {arm}", exact(back)),
                figure(f"recall of the general facts afterwards, {arm}", over_seeds(kept), "points"),
            ]
        return evidence(conditions, figures, {"measured every": 2, "share of the subset": 0.2}, needed=2)


class ScorePicksTheDomain(Claim):
    """The n-gram model ranks the 640 documents of the same corpus, half of them shuffled words.

    Shown when more than 95 % of the fifth that it prefers are documents of the domain.
    """

    says = "The perplexity of an n-gram model of a reference text tells good documents from noise."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The same corpus for every seed, so that there is one value."""
        from palimpsest.claims._evidence import Condition, evidence, exact
        from palimpsest.claims._stages import share_of_clean

        share = exact(100 * share_of_clean())
        conditions = [Condition("chosen documents that are of the domain", share, "above", 95.0, "%")]
        return evidence(conditions, [], {"order of the n-grams": 3})
