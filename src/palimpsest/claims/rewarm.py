"""Studies how to restart the learning rate of a finished language model for a new corpus, and finds that raising and
decaying it once more pays off in the end despite a passing rise in loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import nn

    from palimpsest.audit import Scores
    from palimpsest.claims._pretraining import Bench, Noted
    from palimpsest.loop import Progress

PAPER = Paper(
    "Continual Pre-Training of Large Language Models: How to (re)warm your model?",
    "Kshitij Gupta, Benjamin Therien, Adam Ibrahim et al.",
    2023,
    arxiv="2308.04014",
    tags=("retain", "continual-learning", "schedule", "pre-training", "language-model"),
    summary=(
        "Studies how to restart the learning rate of a finished language model for a new corpus, and finds that "
        "raising and decaying it once more pays off in the end despite a passing rise in loss."
    ),
)
PARTS: tuple[str, ...] = ("schedules.rewarm",)

ARMS: dict[str, tuple[float, float | None]] = {
    "constant at the floor": (0.1, None),
    "peak x0.5": (0.5, 0.01),
    "peak x1": (1.0, 0.01),
    "peak x2": (2.0, 0.01),
    "no warm-up": (1.0, 0.0),
    "warm-up 5 %": (1.0, 0.05),
}
"""Arm -> its peak as a share of that of pre-training, and its warm-up; None is a constant rate."""


@cache
def _continued(budget: Budget, seeds: tuple[int, ...]) -> Noted:
    """The losses of every arm, and of the model before."""
    from palimpsest.claims._pretraining import FLOOR, bench, pretrained
    from palimpsest.schedules.rewarm import Rewarm

    found: Noted = {}
    for seed in seeds:
        own, start = bench(budget, seed), pretrained(budget, seed)
        own.note(found, "before", start)
        for arm, (peak, warmup) in ARMS.items():
            schedule = None if warmup is None else Rewarm(warmup, FLOOR)
            look = own.early(found, arm)
            own.note(found, arm, own.trained(start, own.stream(0.0), schedule, lr=peak * own.scale.lr, watch=look))
    return found


class WarmupLengthMattersLittle(Claim):
    """A tiny byte-level Llama that read code reads docstrings with warm-ups of 0, 1 and 5 % of the steps.

    Losses are on docstrings that were never trained on.  Shown when the final loss with no warm-up, and that with
    5 %, each minus that with 1 %, lie between -0.03 and 0.03 nats a byte, intervals included.
    """

    says = "How long the learning rate is warmed up again makes no difference to the final loss on the new data."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The loss on the old data after the first steps, where the spike is, is reported beside it."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import SCALES, losses
        from palimpsest.statistics import paired_bootstrap_over_seeds

        found = _continued(budget, tuple(seeds))
        conditions = []
        for arm in ("no warm-up", "warm-up 5 %"):
            change = paired_bootstrap_over_seeds(found["peak x1", "new"], found[arm, "new"])
            name = f"loss on new data with {arm} minus warm-up 1 %"
            conditions += [Condition(name, change, "below", 0.03), Condition(name, change, "above", -0.03)]
        shown = {f"{what} data, {arm}": v for (arm, what), v in found.items() if arm in ("no warm-up", "warm-up 5 %")}
        settings = {"steps": SCALES[budget].downstream, "peak": SCALES[budget].lr}
        return evidence(conditions, losses(shown), settings, needed=len(conditions))


class TheMaximumIsTheTradeOff(Claim):
    """The same model continued with a constant rate at the floor, and re-warmed to 0.5, 1 and 2 times the old peak.

    Shown when, on new data at the end, a re-warming to the old peak beats the constant rate by more than 0.02 nats a
    byte, and twice the peak against half of it is lower on new data and higher on old data (intervals beyond 0); and
    when after 15 steps the constant rate is better on the old data.
    """

    says = "A higher re-warmed peak learns more of the new data and loses more of the old; no re-warming learns least."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Final losses on both kinds of data for every arm."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import SCALES, losses
        from palimpsest.statistics import paired_bootstrap_over_seeds

        found = _continued(budget, tuple(seeds))

        gain = paired_bootstrap_over_seeds(found["constant at the floor", "new"], found["peak x1", "new"])
        learned = paired_bootstrap_over_seeds(found["peak x0.5", "new"], found["peak x2", "new"])
        lost = paired_bootstrap_over_seeds(found["peak x0.5", "old"], found["peak x2", "old"])
        early = paired_bootstrap_over_seeds(found["constant at the floor", "early old"], found["peak x1", "early old"])
        conditions = [
            Condition("loss on new data re-warmed to the old peak minus constant", gain, "below", -0.02),
            Condition("loss on new data at twice the peak minus half of it", learned, "below", 0.0),
            Condition("loss on old data at twice the peak minus half of it", lost, "above", 0.0),
            Condition("loss on old data after 15 steps re-warmed minus constant", early, "above", 0.0),
        ]
        shown = {f"{what} data, {arm}": scores for (arm, what), scores in found.items()}
        settings = {"steps": SCALES[budget].downstream, "old peak": SCALES[budget].lr}
        return evidence(conditions, losses(shown), settings, needed=3)


class SameDataBump(Claim):
    """The same model goes on reading code, re-warmed to its old peak or at the constant rate of the floor.

    Its loss on held-out code is taken every tenth of the steps.  Shown when the loss at its highest, re-warmed,
    exceeds the loss before by more than 0.02 nats a byte; and when at the end re-warming is still behind the constant
    rate (interval above 0).
    """

    says = "Re-warming raises the loss even when the data stay the same, and the rise is not made up for."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The step of the highest loss is one for all seeds, chosen by their mean."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import FLOOR, OLD, SCALES, bench, losses, pretrained
        from palimpsest.schedules.rewarm import Rewarm
        from palimpsest.statistics import paired_bootstrap_over_seeds

        scale = SCALES[budget]
        every = scale.downstream // 10
        before, constant = [], []
        curve: dict[int, list[Scores]] = {}
        for seed in seeds:
            own, start = bench(budget, seed), pretrained(budget, seed)
            rows = own.rows(OLD, scale.downstream, after=scale.upstream)
            before.append(own.loss(start, OLD))
            constant.append(own.loss(own.trained(start, rows, None, lr=FLOOR * scale.lr), OLD))

            def look(progress: Progress, model: nn.Module, own: Bench = own) -> None:
                if progress.step % every == 0:
                    curve.setdefault(progress.step, []).append(own.loss(model, OLD))

            own.trained(start, rows, Rewarm(0.01, FLOOR), watch=look)
        highest = max(curve, key=lambda step: sum(float(s.items.mean()) for s in curve[step]))
        bump = paired_bootstrap_over_seeds(before, curve[highest])
        behind = paired_bootstrap_over_seeds(constant, curve[scale.downstream])
        conditions = [
            Condition("loss at its highest minus before", bump, "above", 0.02),
            Condition("final loss re-warmed minus constant", behind, "above", 0.0),
        ]
        shown = {"before": before, "constant": constant} | {f"re-warmed, step {s}": v for s, v in curve.items()}
        return evidence(conditions, losses(shown), {"highest at step": highest, "steps": scale.downstream}, needed=1)
