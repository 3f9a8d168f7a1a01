"""Pictures the loss as a river in a valley to explain why a constant learning rate with a late decay works, and
proposes a single run that decays briefly at each wanted budget and goes on from there."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import nn

    from palimpsest.audit import Row, Scores
    from palimpsest.claims._pretraining import Bench
    from palimpsest.loop import Progress

PAPER = Paper(
    "Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective",
    "Kaiyue Wen et al.",
    2024,
    arxiv="2410.05192",
    venue="ICLR 2025",
    tags=("optimize", "schedule", "training-dynamics", "pre-training", "language-model"),
    summary=(
        "Pictures the loss as a river in a valley to explain why a constant learning rate with a late decay works, "
        "and proposes a single run that decays briefly at each wanted budget and goes on from there."
    ),
)
PARTS: tuple[str, ...] = ("schedules.wsd_s", "schedules.wsd", "procedures.several_budgets")


UNIT = 120
"""Steps of the first budget; the others are twice and four times as long."""

PLACES = (*(end * tenth // 10 for end in (2 * UNIT, 4 * UNIT) for tenth in (8, 9, 10)), 22 * UNIT // 10)
"""The steps of the WSD-S run at which its loss is taken: two decays before a budget, one, none, and one after."""


@cache
def _runs(seeds: tuple[int, ...], budget: Budget) -> dict[tuple[str, int], list[Scores]]:
    """(arm or place, step) -> loss a seed."""
    from palimpsest.claims._pretraining import FLOOR, OLD, bench
    from palimpsest.schedules.rewarm import Rewarm
    from palimpsest.schedules.wsd_s import WSDS

    ends = (UNIT, 2 * UNIT, 4 * UNIT)
    going_on = WSDS(ends, warmup=0.02, floor=FLOOR)
    cyclic = WSDS(ends, warmup=0.0, decay=1.0, of="cycle", floor=FLOOR, shape="cosine")
    found: dict[tuple[str, int], list[Scores]] = {}

    def note(arm: str, step: int, own: Bench, model: nn.Module) -> None:
        found.setdefault((arm, step), []).append(own.loss(model, OLD))

    for seed in seeds:
        own = bench(budget, seed)
        rows = own.rows(OLD, ends[-1])
        kept: dict[int, nn.Module] = {}

        def look(progress: Progress, model: nn.Module, own: Bench = own, kept: dict[int, nn.Module] = kept) -> None:
            if progress.step in PLACES:
                note("WSD-S", progress.step, own, model)
            if progress.step in ends:
                kept[progress.step] = copy.deepcopy(model)

        def look_cyclic(progress: Progress, model: nn.Module, own: Bench = own) -> None:
            if progress.step in ends[1:]:
                note("cyclic cosine", progress.step, own, model)

        own.trained(own.untrained, rows, going_on, watch=look)
        own.trained(own.untrained, rows, cyclic, warmup=0.02, watch=look_cyclic)
        for step, model in _branched(own, rows).items():
            note("WSD", step, own, model)
        for end in ends[1:]:
            alone = own.trained(own.untrained, rows, Rewarm(0.02 * ends[-1] / end, FLOOR), steps=end)
            note("cosine of its own", end, own, alone)
        note("halfway between the decayed models of", ends[1], own, own.halfway(kept[ends[1]], kept[ends[2]]))
    return found


def _branched(own: Bench, rows: Sequence[Row]) -> dict[int, nn.Module]:
    """WSD's model of every budget but the first; with its branches it costs as many steps as WSD-S."""
    from palimpsest.checkpoint import read_tensors
    from palimpsest.claims._pretraining import FLOOR
    from palimpsest.loop import Training
    from palimpsest.objective import Total, on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.procedures.several_budgets import SeveralBudgets, budget_file
    from palimpsest.schedules.wsd_s import WSDS

    branches = (UNIT + 2 * UNIT) // 10
    ends = (UNIT, 2 * UNIT, 4 * UNIT - branches)
    schedule = WSDS(ends, warmup=0.02 * 4 * UNIT / ends[-1], floor=FLOOR)
    training = Training(steps=ends[-1], batch=own.scale.batch, lr=own.scale.lr, schedule=schedule)
    model = copy.deepcopy(own.untrained)
    total = Total((on("stream", CrossEntropy()),))
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        SeveralBudgets(rewind=True)(
            model, own.adapter.roles(stream=rows), total, training, seed=own.seed, folder=folder
        )
        for end in ends[1:]:
            found[end] = copy.deepcopy(model)
            found[end].load_state_dict(read_tensors(budget_file(folder, end))[0], strict=False)
    return found


class OneRunServesEveryBudget(Claim):
    """A tiny byte-level Llama reads code for 120, 240 and 480 steps, with a decay of a tenth before each of them.

    WSD is stopped where its steps, branches included, are 480; the cyclic cosine restarts at each budget; a cosine of
    its own is run for each. All have one peak. Losses are on held-out passages.  Shown when WSD-S is lower than WSD at
    the last budget and than the cyclic cosine at the last two (intervals below 0), and partly when it is not also
    within 0.02 nats a byte of the cosines of their own.
    """

    says = "One run that goes on from its decayed weights beats WSD's branches and a cyclic cosine at equal compute."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The loss of every arm at the last two budgets."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import SCALES, losses
        from palimpsest.statistics import combined_bootstrap, paired_bootstrap_over_seeds

        found = _runs(tuple(seeds), budget)
        ends = (2 * UNIT, 4 * UNIT)

        def against(arm: str) -> list[list[Scores]]:
            return [found[name, end] for name in (arm, "WSD-S") for end in ends]

        (last,) = (step for arm, step in found if arm == "WSD" and step != ends[0])
        branches = paired_bootstrap_over_seeds(found["WSD", last], found["WSD-S", ends[1]])
        cyclic, own = (
            combined_bootstrap(against(arm), lambda a, b, c, d: (c + d - a - b) / 2)
            for arm in ("cyclic cosine", "cosine of its own")
        )
        conditions = [
            Condition("loss of WSD-S minus WSD at equal compute", branches, "below", 0.0, "nats/byte"),
            Condition("loss of WSD-S minus cyclic cosine, two budgets", cyclic, "below", 0.0, "nats/byte"),
            Condition("loss of WSD-S minus a cosine of its own, two budgets", own, "below", 0.02, "nats/byte"),
        ]
        shown = {f"{arm}, step {step}": v for (arm, step), v in found.items() if step in (*ends, last)}
        return evidence(conditions, losses(shown), {"peak": SCALES[budget].lr, "decay": 0.1}, needed=2)


class DecaysRevealProgress(Claim):
    """The WSD-S run of the same model, looked at around the decays before 240 and 480 steps.

    Shown when the loss falls in a decay by more than 0.02 nats a byte more than in as many steps before it; and when it
    is higher again after as many steps at the full rate (above 0), and halfway between the weights of the two decayed
    models lower than at the first of them (below 0).
    """

    says = "A decay lowers the loss at once by what the full rate hides, and decayed models lie along one river."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The loss at each of these steps."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._pretraining import losses
        from palimpsest.statistics import combined_bootstrap, paired_bootstrap_over_seeds

        found = _runs(tuple(seeds), budget)
        steps = [found["WSD-S", step] for step in PLACES[:6]]
        drop = combined_bootstrap(steps, lambda a, b, c, d, e, f: ((b - c) - (a - b) + (e - f) - (d - e)) / 2)
        back = paired_bootstrap_over_seeds(found["WSD-S", 2 * UNIT], found["WSD-S", PLACES[6]])
        between = paired_bootstrap_over_seeds(
            found["WSD-S", 2 * UNIT], found["halfway between the decayed models of", 2 * UNIT]
        )
        conditions = [
            Condition("fall of the loss in a decay minus in the steps before", drop, "above", 0.02, "nats/byte"),
            Condition("loss after the jump minus before", back, "above", 0.0, "nats/byte"),
            Condition("loss halfway to the next decayed model minus at this one", between, "below", 0.0, "nats/byte"),
        ]
        shown = {f"{arm}, step {step}": v for (arm, step), v in found.items() if arm == "WSD-S"}
        return evidence(conditions, losses(shown), {"budgets": f"{UNIT}, {2 * UNIT}, {4 * UNIT}"}, needed=1)
