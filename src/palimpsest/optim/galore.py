"""AdamW whose moments live in the leading singular subspace of each gradient, so that they are small.

    every T steps:  G = U S V^T,  Q = the first r rows of V^T (a tall matrix) or columns of U (a wide one)
    R = G Q^T,  N = Adam's direction for R,  W <- W - lr alpha N Q                     (tall; wide: R = Q^T G, Q N)

The moments stay as they are when the basis changes.  What lies outside the subspace is not applied.

Paper: GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection (Zhao et al., 2024), arXiv 2403.03507.
Code: jiaweizzhao/GaLore (GaLoreAdamW).
Tags: optimize, optimizer, pre-training, fine-tuning, language-model.
Needs: parameters with names, or groups that say ``project``; a learning rate of about ten times AdamW's.
Differs: the signs of singular vectors, which a routine returns as it pleases, follow a rule; the released code's other
    sides (reverse_std, left, right, full) are left out. A matrix whose smaller side is at most the rank takes a full
    step, with a warning, where the released code cuts the rank; where none is larger there is an error. eps stands
    beside the uncorrected root, as released.
See: ``fira`` (applies the rest too), ``frugal`` (signs of the rest; other ways to split).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from palimpsest.optim._part_optimizer import SubspaceAdam, Work
from palimpsest.optim._rules import State
from palimpsest.optim._split_optimizer import MODULES, Group, Parameters, common
from palimpsest.optim._splitter import Split

__all__ = ["METHOD", "GaLore"]


class GaLore(SubspaceAdam):
    """``rank`` r of the subspace, renewed every ``update_gap`` T steps; ``alpha`` scales what comes back from it."""

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.01,
        weight_decay: float = 0.0,
        *,
        rank: int = 128,
        update_gap: int = 200,
        alpha: float = 0.25,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        modules: tuple[str, ...] = MODULES,
    ) -> None:
        defaults = common(lr, weight_decay, betas, eps, update_gap, modules)
        super().__init__(params, {**defaults, "rank": rank, "alpha": alpha})

    def _update(self, group: Group, states: Sequence[State], split: Split, work: Work) -> Tensor:
        split.add_up(work.gradients, work.directions, group["alpha"], keep=0.0)
        return work.gradients


METHOD = GaLore
