"""Spends optimizer state on part of each gradient only and moves the rest by stateless sign or plain gradient steps,
so that large models train with full-rank updates in much less memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from palimpsest.claims._optimizers import Ends

PAPER = Paper(
    "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    "Philip Zmushko et al.",
    2024,
    arxiv="2411.07837",
    venue="ICML 2025",
    tags=("optimize", "optimizer", "pre-training", "fine-tuning", "language-model"),
    summary=(
        "Spends optimizer state on part of each gradient only and moves the rest by stateless sign or plain gradient "
        "steps, so that large models train with full-rank updates in much less memory."
    ),
)
PARTS: tuple[str, ...] = ("optim.frugal", "optim.galore", "optim.badam")

FULL_RATES, SUBSPACE_RATES = (1e-3, 2e-3, 4e-3), (0.015, 0.03, 0.06)
"""Rates of the layers' matrices to choose from, of AdamW and FRUGAL and of GaLore."""


class BetterThanLeavingTheRestOut(Claim):
    """A small Llama reads documentation; the matrices of its layers are moved by AdamW, or with a quarter of its state.

    FRUGAL has state for a quarter of the matrices, drawn anew every tenth of the steps, and signs for the others.  It
    is compared with the same without signs (as BAdam) and with GaLore of a quarter of the rank.  Every arm has the best
    of its rates; embeddings and norms are moved by Adam at one rate in all arms.  Shown when, over seeds, the held-out
    losses of both are more than 0.02 nats a token above FRUGAL's; in part, if FRUGAL's is not less than 0.05 above
    AdamW's.
    """

    says = "At a quarter of the state, FRUGAL ends near AdamW, and below GaLore and blocks alone."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Chooses the rates with the first seed."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._optimizers import difference

        found = {name: _ended(name, budget, tuple(seeds)) for name in ("AdamW", "FRUGAL", "blocks alone", "GaLore")}
        frugal = found["FRUGAL"]
        conditions = [
            Condition(f"loss of {name} minus FRUGAL", difference(found[name], frugal), "above", 0.02, "nats")
            for name in ("blocks alone", "GaLore")
        ]
        conditions.append(
            Condition("loss of FRUGAL minus AdamW", difference(frugal, found["AdamW"]), "below", 0.05, "nats")
        )
        settings = {f"rate of {name}": end.rate for name, end in found.items()}
        return evidence(conditions, [end.figure(name) for name, end in found.items()], settings, needed=2)


class SignsAreEnoughExceptForTheEmbeddings(Claim):
    """The same Llama with density 0: signs move every matrix of the layers, or the embeddings (its head) as well.

    Shown when, over seeds, the loss with signs for the embeddings too is more than 0.05 nats a token above that
    without; in part, if GaLore's loss is not above the latter.
    """

    says = "Without any state for the layers' matrices FRUGAL is still ahead of GaLore, but the head needs its state."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Chooses the rates with the first seed."""
        from palimpsest.claims._evidence import Condition, evidence
        from palimpsest.claims._optimizers import difference

        found = {name: _ended(name, budget, tuple(seeds)) for name in ("no state", "signs everywhere", "GaLore")}
        none = found["no state"]
        head = difference(found["signs everywhere"], none)
        conditions = [
            Condition("loss of signs everywhere minus signs in the layers alone", head, "above", 0.05, "nats"),
            Condition(
                "loss of GaLore minus signs in the layers", difference(found["GaLore"], none), "above", 0.0, "nats"
            ),
        ]
        settings = {f"rate of {name}": end.rate for name, end in found.items()}
        return evidence(conditions, [end.figure(name) for name, end in found.items()], settings, needed=1)


@cache
def _ended(name: str, budget: Budget, seeds: tuple[int, ...]) -> Ends:
    """Where an arm ends; both claims look at some of them."""
    import torch

    from palimpsest.claims._optimizers import SIZES, Arm, Groups, ends
    from palimpsest.optim.frugal import FRUGAL
    from palimpsest.optim.galore import GaLore

    size = SIZES[budget]
    gap = size.update_gap

    def everywhere(groups: Groups) -> torch.optim.Optimizer:
        layers, others = groups
        matrices, vectors = ([m for m in others["params"] if (m[1].ndim == 2) == flat] for flat in (True, False))
        signs = {"params": [*layers["params"], *matrices], "lr": layers["lr"], "project": True}
        return FRUGAL([signs, {**others, "params": vectors, "project": False}], density=0.0, update_gap=gap)

    arms = {
        "AdamW": Arm(lambda groups: torch.optim.AdamW(groups, weight_decay=0.0), FULL_RATES),
        "FRUGAL": Arm(lambda groups: FRUGAL(groups, density=0.25, update_gap=gap), FULL_RATES),
        "blocks alone": Arm(lambda groups: FRUGAL(groups, outside="nothing", update_gap=gap), FULL_RATES),
        "no state": Arm(lambda groups: FRUGAL(groups, density=0.0, update_gap=gap), FULL_RATES),
        "signs everywhere": Arm(everywhere, FULL_RATES),
        "GaLore": Arm(lambda groups: GaLore(groups, rank=size.rank, update_gap=gap), SUBSPACE_RATES),
    }
    return ends(size, arms[name], seeds)
