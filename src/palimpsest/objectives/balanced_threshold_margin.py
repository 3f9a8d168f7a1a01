"""The threshold margin as its paper divides and weighs it: by the violations of the batch, and as large as the
cross-entropy beside it.

    L_TM = sum of v over all texts of the batch / number of entries with v > 0
    w    = min(L_CE / (L_TM + 1e-8), cap),  L_CE = (CE(texts) + CE(task)) / 2     both taken as constants
    L    = w L_TM

It looks at the texts and at the task: ``on(("replay", "task"), BalancedThresholdMargin())``, beside half a
``cross_entropy`` on each of them.

Paper: GeRe: Towards Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay (Zhang et al.,
    2025), arXiv 2508.04676.
Code: Qznan/GeRe (GeReTrainer.compute_loss, w strategies 1, 100 and dy).
Tags: retain, continual-learning, replay, loss, fine-tuning, language-model.
Needs: nothing beside the model; one pass over the texts before the first stage, kept for all later ones.
Differs: the items of a batch depend on one another, so accumulation and several processes are refused; in the released
    code both change the effective weights without a word. w is capped: uncapped (``cap: .inf``), as in the code, its
    gradient grows without bound as the violations become small, just where training starts. Every batch holds texts and
    task; the code also meets batches with one of them only.
See: ``threshold_margin`` (the same per text, for any split of a batch; its card has the states and thresholds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective, Pairing
from palimpsest.objectives.threshold_margin import BaseStates, ThresholdMargin, base_states
from palimpsest.roles import Roles
from palimpsest.views import TokenView, Unit

__all__ = ["METHOD", "BalancedThresholdMargin", "dynamic_weight"]

_FLOOR = 1e-8


def dynamic_weight(cross_entropy: Tensor, margin: Tensor, cap: float) -> Tensor:
    """min(L_CE / (L_TM + 1e-8), cap), a constant for the gradient."""
    return (cross_entropy.detach() / (margin.detach() + _FLOOR)).clamp_max(cap)


@dataclass(frozen=True)
class BalancedThresholdMargin(Objective):
    """``deviations`` as in ``threshold_margin``; ``cap`` bounds the weight w where it is ``dynamic``, else w is 1.

    Violations begin at 0, so a dynamic weight begins at its cap: with a high one the texts drown the task.
    """

    deviations: float = 1.0
    dynamic: bool = False
    cap: float = 1e3

    unit: ClassVar[Unit] = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"hidden:last"})
    arity: ClassVar[int] = 2
    pairs: ClassVar[Pairing] = "none"
    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ThresholdMargin(self.deviations)
        if not self.cap > 0:
            raise ValueError(f"cap must be above 0, not {self.cap}; it bounds the weight of the margin.")

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> BaseStates:
        """The base model's states on the first role's rows."""
        return base_states(model, roles, role, previous)

    def __call__(self, view: tuple[TokenView, TokenView], state: nn.Module | None = None) -> Tensor:
        """[B], each text's part of the batch's loss times B, so that their mean over texts is the paper's loss."""
        total, number = ThresholdMargin(self.deviations).margins(view[0], state)  # [B] each
        every = number.sum().clamp_min(1)
        weight = torch.ones_like(total[0])
        if self.dynamic:
            means = [-v.logp.detach().sum() / v.mask.sum() for v in view]
            weight = dynamic_weight(torch.stack(means).mean(), total.sum() / every, self.cap)
        return total * weight * (len(total) / every)


METHOD = BalancedThresholdMargin
