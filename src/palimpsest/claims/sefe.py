"""Treats lost answer format and lost knowledge as two kinds of forgetting in multimodal tuning: varied answer styles
in the data cure the first, a penalty on LoRA entries that earlier tasks moved most cures the second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.audit import Scores

PAPER = Paper(
    "SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual Instruction Tuning",
    "Jinpeng Chen et al.",
    2025,
    arxiv="2505.02486",
    venue="ICML 2025",
    tags=("retain", "continual-learning", "data-selection", "loss", "adapter", "multimodal"),
    summary=(
        "Treats lost answer format and lost knowledge as two kinds of forgetting in multimodal tuning: varied answer "
        "styles in the data cure the first, a penalty on LoRA entries that earlier tasks moved most cures the second."
    ),
)
PARTS: tuple[str, ...] = ("procedures.answer_styles", "objectives.reg_lora")
SHARE, FRACTION, WEIGHT = 0.2, 0.02, 10.0


class StylesKeepTheFormat(Claim):
    """A tiny decoder that picks the first, second, third or fourth of four words, and says it in three styles, is tuned
    on the first three picks in turn: 40 steps each with an adapter of its own, each in one style.

    Measured is whether the answer to the first two tasks is right to the word after the third. Shown when it is so more
    often by more than 0.1 where a fifth of each task's rows was put into the other two styles.
    """

    says = "Tuning each task on all answer styles keeps the earlier tasks' exact answers, which one style a task loses."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Four runs a seed."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._styles import figures_of
        from palimpsest.statistics import paired_bootstrap_over_seeds

        found = _runs(budget, seeds)
        plain, styles = ([scores["exact"] for scores in found[arm]] for arm in ("one style", "all styles"))
        change = paired_bootstrap_over_seeds(plain, styles)
        conditions = [Condition("exact answers with all styles minus one style", change, "above", 0.1)]
        return evidence(conditions, figures_of(found), {"share": SHARE})


class PenaltyKeepsKnowledge(Claim):
    """The runs of the claim before, with all styles, with and without RegLoRA (M 2 %, weight 10) on top.

    The paper's weight, 2500, is for a model whose matrices are sixty times as wide.  Measured is whether the answer to
    the first two tasks names the right word, in whatever style.  Shown when it does so more often by more than 0.02
    with RegLoRA.
    """

    says = "On top of all answer styles, RegLoRA keeps more of what earlier tasks taught, whatever the style."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The same runs."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._styles import figures_of
        from palimpsest.statistics import paired_bootstrap_over_seeds

        found = _runs(budget, seeds)
        plain, penalty = ([scores["content"] for scores in found[arm]] for arm in ("all styles", "all styles, RegLoRA"))
        change = paired_bootstrap_over_seeds(plain, penalty)
        conditions = [Condition("right content with RegLoRA minus without", change, "above", 0.02)]
        return evidence(conditions, figures_of(found), {"fraction": FRACTION, "weight": WEIGHT})


_MEASURED: dict[tuple[Budget, int], dict[str, dict[str, Scores]]] = {}
"""What a seed's runs measured, for both claims."""


def _runs(budget: Budget, seeds: Sequence[int]) -> dict[str, list[dict[str, Scores]]]:
    """Arm -> scores, a run a seed."""
    from palimpsest.claims._facts import device_of
    from palimpsest.claims._styles import SIZES, measured

    arms = {
        "one style": (0.0, 0.0),
        "all styles": (SHARE, 0.0),
        "one style, RegLoRA": (0.0, WEIGHT),
        "all styles, RegLoRA": (SHARE, WEIGHT),
    }
    for seed in seeds:
        if (budget, seed) not in _MEASURED:
            _MEASURED[budget, seed] = measured(SIZES[budget], arms, FRACTION, seed, device_of(budget))
    return {arm: [_MEASURED[budget, seed][arm] for seed in seeds] for arm in arms}
