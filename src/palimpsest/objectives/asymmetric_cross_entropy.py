"""Teaches new classes without pushing the old ones down: the softmax of new rows runs over their own classes.

    L_i = -log ( exp z_{i y_i} / sum over classes c that occur in the batch of exp z_ic )

ER-ACE is half of this on the new task and half of plain cross-entropy on the buffer, which holds rows of the new task
too: without them nothing compares new classes with old ones, and the replay pushes the new ones down.

    0.5 * on("task", AsymmetricCrossEntropy()) + 0.5 * on("replay", CrossEntropy())

Paper: New Insights on Reducing Abrupt Representation Change in Online Continual Learning (Caccia et al., 2022), arXiv
    2104.05025.
Code: ContinualAI/avalanche (ACECriterion), aimagelab/mammoth (er_ace).
Tags: retain, continual-learning, loss, classifier.
Needs: nothing.
Differs: mammoth adds the two losses, avalanche takes their mean, as above; the paper's text leaves the weights open.
See: ``cross_entropy`` (over all classes), ``reservoir``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "AsymmetricCrossEntropy", "asymmetric_cross_entropy"]


def asymmetric_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, C] and labels [B] of one batch -> [B], at least 0; 0 in a batch of one class."""
    absent = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device).index_fill(0, labels, False)  # [C]
    log_probs = logits.masked_fill(absent, -torch.inf).log_softmax(-1)
    return -log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class AsymmetricCrossEntropy(Objective):
    """Has no fields: the classes are those of the batch."""

    unit: ClassVar[Unit] = "example"
    couples: ClassVar[bool] = True

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B]."""
        return asymmetric_cross_entropy(view.logits, view.labels)


METHOD = AsymmetricCrossEntropy
