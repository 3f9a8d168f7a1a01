"""Fine-tunes what should be forgotten on labels drawn at random.

    L_i = -log p(c_i | x_i),    c_i drawn uniformly from the C classes

Every item gets a fresh label in every round through the data; the draw comes with the item, so a run repeats
exactly and does not depend on the batch split.

Paper: SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and
    Generation (Fan et al., 2023), arXiv 2310.12508; random labels for forgetting also in Amnesiac Machine Learning
    (Graves et al., 2020), arXiv 2010.10981.
Code: OPTML-Group/Unlearn-Saliency (Classification/unlearn/RL.py).
Tags: forget, unlearning, loss, classifier.
Needs: nothing.
Differs: forget and retain terms share a step, where the released code runs all forget batches and then all retain
    batches on the smaller data sets. As released, the true class may be drawn (``exclude_true=False``); the paper's
    text says a label other than the true one (``exclude_true=True``).
See: ``cross_entropy`` on retain, which it is used with; the mask ``salun``, which makes it SalUn;
    ``gradient_ascent``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "RandomLabel", "random_labels"]


def random_labels(draw: Tensor, labels: Tensor, classes: int, exclude_true: bool = False) -> Tensor:
    """Random 63-bit numbers ``draw`` [B] and true classes ``labels`` [B] -> random classes [B], int64.

    With ``exclude_true`` the true class is left out and the others are equally likely, which needs two classes.
    """
    if not exclude_true:
        return torch.remainder(draw, classes)
    if classes < 2:
        raise ValueError("exclude_true needs at least two classes; with one there is no other label to draw.")
    other = torch.remainder(draw, classes - 1)  # [B]
    return other + (other >= labels).long()


@dataclass(frozen=True)
class RandomLabel(Objective):
    """``exclude_true`` never draws a row's own class."""

    exclude_true: bool = False

    unit: ClassVar[Unit] = "example"
    forgets: ClassVar[int | None] = 0

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per row."""
        drawn = random_labels(view.batch["draw"], view.labels, view.logits.shape[-1], self.exclude_true)  # [B]
        return -view.log_probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)


METHOD = RandomLabel
