"""Shows that a restarted learning rate and a few percent of replayed old data let a language model take in new corpora
about as well as full retraining, and offers schedules with no fixed end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.audit import Scores
    from palimpsest.claims._pretraining import Noted

PAPER = Paper(
    "Simple and Scalable Strategies to Continually Pre-train Large Language Models",
    "Adam Ibrahim, Benjamin Therien, Kshitij Gupta et al.",
    2024,
    arxiv="2403.08763",
    venue="TMLR 2024",
    tags=("retain", "continual-learning", "schedule", "replay", "pre-training", "language-model"),
    summary=(
        "Shows that a restarted learning rate and a few percent of replayed old data let a language model take in new "
        "corpora about as well as full retraining, and offers schedules with no fixed end."
    ),
)
PARTS: tuple[str, ...] = ("schedules.infinite", "schedules.rewarm")

SHARES = (0.0, 0.01, 0.05, 0.25)
PLATEAU = 0.5
COSINE = {"before": "cosine, at the join", "5% replay": "cosine"}
"""The arms of the replay sweep that are the re-warmed cosine before and after the code."""


@cache
def _replayed(budget: Budget, seeds: tuple[int, ...]) -> Noted:
    """The losses of every share of replay, of the model before, and of one retrained on the union."""
    from palimpsest.claims._pretraining import FLOOR, bench, pretrained
    from palimpsest.schedules.rewarm import Rewarm

    found: Noted = {}
    for seed in seeds:
        own, start = bench(budget, seed), pretrained(budget, seed)
        own.note(found, "before", start)
        for share in SHARES:
            arm = f"{share:.0%} replay"
            look = own.early(found, arm)
            own.note(found, arm, own.trained(start, own.stream(share), Rewarm(0.01, FLOOR), watch=look))
        own.note(found, "union", own.trained(own.untrained, own.union(), Rewarm(0.02, FLOOR)))
    return found


class AFewPercentOfReplay(Claim):
    """A tiny byte-level Llama that read code reads docstrings, with 0, 1, 5 or 25 % of code among them.

    All arms see the same number of passages.  Forgetting is the rise of the loss on held-out code without replay.
    Shown when 5 % of replay undoes more than half of it and costs less than 0.03 nats a byte on docstrings; and when
    1 % undoes more than a tenth of it.
    """

    says = "Replaying a few percent of the old data removes most of the forgetting and costs little of the new."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Losses on both kinds of data for every share."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import SCALES, losses
        from palimpsest.statistics import combined_bootstrap, paired_bootstrap_over_seeds

        found = _replayed(budget, tuple(seeds))

        def undone(share: str) -> list[list[Scores]]:
            return [found["before", "old"], found["0% replay", "old"], found[f"{share} replay", "old"]]

        five, one = (combined_bootstrap(undone(s), lambda b, n, r: (n - r) / (n - b)) for s in ("5%", "1%"))
        cost = paired_bootstrap_over_seeds(found["0% replay", "new"], found["5% replay", "new"])
        conditions = [
            Condition("share of the forgetting that 5 % replay undoes", five, "above", 0.5),
            Condition("loss on new data with 5 % replay minus none", cost, "below", 0.03),
            Condition("share of the forgetting that 1 % replay undoes", one, "above", 0.1),
        ]
        shown = {f"{what} data, {arm}": scores for (arm, what), scores in found.items()}
        return evidence(conditions, losses(shown), {"steps": SCALES[budget].downstream}, needed=2)


class MatchesRetraining(Claim):
    """The arm with 25 % of replay (the paper's share for a strong shift) against training on both corpora from scratch.

    The figure is the mean of the losses on both kinds of data, each counted once.  Shown when that of the continued
    model minus that of the retrained one, which takes five times the steps, is below 0.03 nats a byte.
    """

    says = "Re-warming, re-decaying and replay match retraining on the union of all data."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The same figure for the other shares beside it."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import SCALES, averaged, losses
        from palimpsest.statistics import paired_bootstrap_over_seeds

        found = _replayed(budget, tuple(seeds))

        both = {arm: averaged(found[arm, "old"], found[arm, "new"]) for arm, what in found if what == "old"}
        gap = paired_bootstrap_over_seeds(both["union"], both["25% replay"])
        conditions = [Condition("mean loss with 25 % replay minus retrained", gap, "below", 0.03, "nats/byte")]
        figures = losses({f"mean loss, {arm}": scores for arm, scores in both.items()})
        steps = {"continued": SCALES[budget].downstream}
        steps["retrained"] = SCALES[budget].upstream + SCALES[budget].downstream
        return evidence(conditions, figures, {f"steps, {name}": count for name, count in steps.items()})


class AnInfiniteScheduleNeedsNoRewarming(Claim):
    """Code and then docstrings with 5 % replay, under an infinite schedule and under a cosine that is re-warmed.

    The infinite one stays on its plateau where the data change and is annealed over the last half; both end at the same
    rate after the same steps.  Shown when the mean of its losses on both kinds of data, minus the cosine's,
    is below 0.03 nats a byte; and when its loss on the old data rises less in the first 15 steps after it (below 0).
    """

    says = "A schedule with a plateau takes in new data as well as a re-warmed cosine, without the spike at the join."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The rise is measured from the last loss before the join."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import FLOOR, averaged, bench, losses
        from palimpsest.schedules.infinite import Infinite
        from palimpsest.statistics import combined_bootstrap, paired_bootstrap_over_seeds

        found: Noted = {}
        for seed in seeds:
            own = bench(budget, seed)
            open_end = Infinite(0.02, 0.3, 0.0, PLATEAU, FLOOR)
            start = own.trained(own.untrained, own.old(), open_end)
            own.note(found, "infinite, at the join", start)
            annealed, look = Infinite(0.0, 0.0, 0.5, PLATEAU, FLOOR), own.early(found, "infinite")
            own.note(found, "infinite", own.trained(start, own.stream(0.05), annealed, watch=look))
        replayed = _replayed(budget, tuple(seeds))
        found |= {(COSINE[arm], what): scores for (arm, what), scores in replayed.items() if arm in COSINE}
        both = {arm: averaged(found[arm, "old"], found[arm, "new"]) for arm in ("cosine", "infinite")}
        gap = paired_bootstrap_over_seeds(both["cosine"], both["infinite"])
        places = [("cosine, at the join", "old"), ("cosine", "early old")]
        places += [("infinite, at the join", "old"), ("infinite", "early old")]
        spike = combined_bootstrap([found[place] for place in places], lambda a, b, c, d: (d - c) - (b - a))
        conditions = [
            Condition("mean loss, infinite minus cosine", gap, "below", 0.03, "nats/byte"),
            Condition("rise of the old loss at the join, infinite minus cosine", spike, "below", 0.0, "nats/byte"),
        ]
        shown = {f"{what} data, {arm}": scores for (arm, what), scores in found.items()}
        return evidence(conditions, losses(shown), {"plateau": PLATEAU, "floor": FLOOR}, needed=1)
