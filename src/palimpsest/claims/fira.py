"""Keeps Adam's moments in a small projection of each gradient yet still applies what lies outside it, rescaled by what
Adam did inside, for training when full optimizer state does not fit in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    import torch
    from torch import nn

    from palimpsest.claims._optimizers import Arm, Size

PAPER = Paper(
    "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?",
    "Xi Chen et al.",
    2024,
    arxiv="2410.01623",
    venue="NeurIPS 2025",
    tags=("optimize", "optimizer", "pre-training", "fine-tuning", "language-model"),
    summary=(
        "Keeps Adam's moments in a small projection of each gradient yet still applies what lies outside it, rescaled "
        "by what Adam did inside, for training when full optimizer state does not fit in memory."
    ),
)
PARTS: tuple[str, ...] = ("optim.fira", "optim.galore")

ADAMW_RATES, SUBSPACE_RATES = (1e-3, 2e-3, 4e-3), (0.015, 0.03, 0.06)
"""Rates of the layers' matrices to choose from."""


class AsAdamWithAThirdOfTheState(Claim):
    """A small Llama reads documentation; the matrices of its layers are moved by AdamW, GaLore or Fira.

    Rank a quarter of the width, a new basis every tenth of the steps.  Every arm has the best of its rates; embeddings
    and norms are moved by Adam at one rate in all arms.  Shown when, over seeds, Fira's held-out loss is less than 0.05
    nats a token above AdamW's, GaLore's is more than 0.02 above Fira's, and Fira's state is below 0.5 of AdamW's.
    """

    says = "With moments of a quarter of the rank, Fira ends where AdamW does, and below GaLore."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Chooses the rates with the first seed."""
        import torch

        from palimpsest.claims._evidence import Condition, evidence, exact
        from palimpsest.claims._optimizers import SIZES, Arm, difference, ends
        from palimpsest.optim.fira import Fira
        from palimpsest.optim.galore import GaLore

        size = SIZES[budget]
        rank, gap = size.rank, size.update_gap
        arms = {
            "AdamW": Arm(lambda groups: torch.optim.AdamW(groups, weight_decay=0.0), ADAMW_RATES),
            "GaLore": Arm(lambda groups: GaLore(groups, rank=rank, update_gap=gap), SUBSPACE_RATES),
            "Fira": Arm(lambda groups: Fira(groups, rank=rank, update_gap=gap), SUBSPACE_RATES),
        }
        found = {name: ends(size, arm, seeds) for name, arm in arms.items()}
        share = found["Fira"].state / found["AdamW"].state
        conditions = [
            Condition("loss of Fira minus AdamW", difference(found["Fira"], found["AdamW"]), "below", 0.05, "nats"),
            Condition("loss of GaLore minus Fira", difference(found["GaLore"], found["Fira"]), "above", 0.02, "nats"),
            Condition("state of the layers' matrices, Fira over AdamW", exact(share), "below", 0.5),
        ]
        settings = {f"rate of {name}": end.rate for name, end in found.items()}
        figures = [end.figure(name) for name, end in found.items()]
        return evidence(
            conditions, figures, {"rank": rank, "update_gap": gap, "steps": size.steps, **settings}, needed=3
        )


class ScalingFactorsAgree(Claim):
    """The same Llama, trained by AdamW and by GaLore.

    For each matrix of the layers, the norm of Adam's direction over that of the gradient it is made of, as a mean over
    the steps.  Shown when, over seeds, the rank correlation between the two runs exceeds 0.8.
    """

    says = "Which matrices Adam scales up and which down is much the same in low-rank and in full-rank training."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Two runs a seed."""
        import torch
        from scipy.stats import spearmanr

        from palimpsest.claims._evidence import Condition, evidence, over_seeds
        from palimpsest.claims._optimizers import SIZES, Arm
        from palimpsest.optim.galore import GaLore

        size = SIZES[budget]
        full = Arm(lambda groups: torch.optim.AdamW(groups, weight_decay=0.0), (ADAMW_RATES[1],))
        low = Arm(lambda groups: GaLore(groups, rank=size.rank, update_gap=size.update_gap), (SUBSPACE_RATES[1],))
        found = []
        for seed in seeds:
            one, two = _scaling(size, full, seed), _scaling(size, low, seed)
            found.append(float(spearmanr([one[n] for n in one], [two[n] for n in one]).statistic))
        conditions = [Condition("rank correlation of the scaling factors", over_seeds(found), "above", 0.8)]
        rates = {"rate of AdamW": full.rates[0], "rate of GaLore": low.rates[0]}
        return evidence(conditions, [], {"steps": size.steps, "matrices": len(one), **rates})


def _scaling(size: Size, arm: Arm, seed: int) -> Mapping[str, float]:
    """Matrix -> mean over the steps of the norm of Adam's direction over that of what it is made of."""
    from palimpsest.claims._optimizers import train
    from palimpsest.optim._splitter import Leading

    sums: dict[str, float] = {}

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in model.named_parameters():
            state, gradient = optimizer.state[parameter], parameter.grad
            if gradient is None or "layers" not in name or parameter.ndim != 2:
                continue
            if "chosen" in state:
                gradient = Leading(state["chosen"], gradient.shape).down(gradient)
            direction = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
            sums[name] = sums.get(name, 0.0) + float(direction.norm() / (gradient.norm() + 1e-12)) / size.steps

    train(size, arm, arm.rates[0], seed, watch)
    return sums
