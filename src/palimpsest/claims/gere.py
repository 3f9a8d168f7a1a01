"""Keeps the general ability of a language model through a series of fine-tunings by replaying a small fixed set of
ordinary texts and holding each hidden unit on them in its negative, neutral or positive state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.audit import Scores
    from palimpsest.claims._facts import Facts

PAPER = Paper(
    "GeRe: Towards Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay",
    "Yunan Zhang et al.",
    2025,
    arxiv="2508.04676",
    tags=("retain", "continual-learning", "replay", "loss", "fine-tuning", "language-model"),
    summary=(
        "Keeps the general ability of a language model through a series of fine-tunings by replaying a small fixed "
        "set of ordinary texts and holding each hidden unit on them in its negative, neutral or positive state."
    ),
)
PARTS: tuple[str, ...] = (
    "objectives.threshold_margin",
    "objectives.balanced_threshold_margin",
    "objectives.feature_distance",
    "objectives.kl_to_reference",
)
TASKS, STEPS, RATE = 3, 40, 4e-4


class KeepsWhatIsNeverReplayed(Claim):
    """A tiny decoder that knows general facts is fine-tuned on three tasks in turn, 40 steps each.

    Half of the general facts are replayed, with cross-entropy alone or with one more term of weight 1: the threshold
    margin, its dynamic form, the KL divergence from the base model, the L1 or the L2 distance of hidden states.
    Measured is the recall of the general facts that are never replayed.  Shown when it is higher by more than 0.1 with
    replay than without, and by more than 0.05 with the threshold margin than with cross-entropy replay.  Partly shown
    when the first holds.
    """

    says = "Replaying general texts keeps general knowledge that is not replayed, and the threshold margin keeps more."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Seven runs a seed."""
        from palimpsest.claims._evidence import Condition, evidence, figure
        from palimpsest.statistics import bootstrap_over_seeds, paired_bootstrap_over_seeds

        found = _runs(budget, seeds)
        general = {arm: [scores["general"] for scores in runs] for arm, runs in found.items()}
        gain = paired_bootstrap_over_seeds(general["no replay"], general["replay"])
        more = paired_bootstrap_over_seeds(general["replay"], general["threshold margin"])
        conditions = [
            Condition("recall of unreplayed facts with replay minus without", gain, "above", 0.1),
            Condition("the same with the threshold margin minus replay alone", more, "above", 0.05),
        ]
        figures = [
            figure(f"recall of {what}, {arm}", bootstrap_over_seeds([scores[what] for scores in runs]))
            for arm, runs in found.items()
            for what in ("general", "tasks")
        ]
        return evidence(conditions, figures, {"tasks": TASKS, "steps a task": STEPS, "learning rate": RATE}, needed=1)


class BeatsTheOtherTerms(Claim):
    """The runs of the claim before, with the threshold margin against the paper's other terms beside the same replay.

    Shown when the recall of the general facts that are never replayed is higher with the threshold margin, by more than
    0.02, than with each of the KL divergence, the L1 and the L2 distance.
    """

    says = "The threshold margin keeps more than the KL divergence and than L1 or L2 distances of hidden states."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The same runs."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.statistics import paired_bootstrap_over_seeds

        found = _runs(budget, seeds)
        general = {arm: [scores["general"] for scores in runs] for arm, runs in found.items()}
        conditions = [
            Condition(
                f"recall of unreplayed facts with the threshold margin minus {arm}",
                paired_bootstrap_over_seeds(general[arm], general["threshold margin"]),
                "above",
                0.02,
            )
            for arm in ("KL", "L1", "L2")
        ]
        return evidence(conditions, [], {"tasks": TASKS, "steps a task": STEPS, "learning rate": RATE}, needed=3)


_MEASURED: dict[tuple[Budget, int], dict[str, dict[str, Scores]]] = {}
"""What a seed's runs measured, for both claims."""


def _runs(budget: Budget, seeds: Sequence[int]) -> dict[str, list[dict[str, Scores]]]:
    """Arm -> recall of ``general`` facts and of the ``tasks``, a run a seed."""
    from palimpsest.claims._facts import device_of, learned
    from palimpsest.claims._tasks import WORLDS

    for seed in seeds:
        if (budget, seed) not in _MEASURED:
            _MEASURED[budget, seed] = _measured(learned(WORLDS[budget], seed, device_of(budget)), seed)
    arms = list(_MEASURED[budget, seeds[0]])
    return {arm: [_MEASURED[budget, seed][arm] for seed in seeds] for arm in arms}


def _measured(facts: Facts, seed: int) -> dict[str, dict[str, Scores]]:
    import copy

    from palimpsest.claims._facts import recall
    from palimpsest.claims._tasks import held_out, task, taught
    from palimpsest.loop import Training
    from palimpsest.objective import Total, on
    from palimpsest.objectives.balanced_threshold_margin import BalancedThresholdMargin
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.feature_distance import FeatureDistance
    from palimpsest.objectives.kl_to_reference import KLToReference
    from palimpsest.objectives.threshold_margin import ThresholdMargin
    from palimpsest.reference import Copy

    replay = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
    arms = {
        "no replay": Total((on("task", CrossEntropy()),)),
        "replay": replay,
        "threshold margin": replay + on("replay", ThresholdMargin()),
        "dynamic threshold margin": replay + on(("replay", "task"), BalancedThresholdMargin(dynamic=True)),
        "KL": replay + on("replay", KLToReference()),
        "L1": replay + on("replay", FeatureDistance("l1")),
        "L2": replay + on("replay", FeatureDistance("l2")),
    }
    training = Training(steps=STEPS, batch=min(32, facts.world.strangers), lr=RATE)
    rows = [row for number in range(TASKS) for row in task(facts.world, number)]
    found = {}
    for arm, objective in arms.items():
        model, reference = copy.deepcopy(facts.model), Copy(facts.model)
        taught(facts, model, [objective] * TASKS, [facts.world.retain] * TASKS, training, seed, reference=reference)
        general = recall(facts.adapter, model, held_out(facts.world))
        found[arm] = {"general": general, "tasks": recall(facts.adapter, model, rows)}
    return found
