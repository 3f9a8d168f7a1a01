"""Starts a companion as a copy of the model, all of it trainable, to be trained beside it.

    companion = model,    sharing nothing

Paper: none; MUSE (Shi et al., 2024), arXiv 2407.06460, calls it the reinforced model once it has been trained further
    on the forget set.
Code: none.
Tags: unlearning.
Needs: memory for a second model; a stage that trains a companion starts it so.
Differs: nothing known.
See: ``task_vector`` and ``whos_harry_potter`` (what such a companion is for), ``truncated_copy`` (a smaller one).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from palimpsest.intervention import changes_logits

__all__ = ["METHOD", "FullCopy"]


@dataclass(frozen=True)
class FullCopy:
    """There is nothing to set."""

    def __call__(self, model: nn.Module) -> nn.Module:
        """A new model on the same device, in the same mode; ``model`` is left alone.

        Raises ``ValueError`` while an intervention is attached to the model.
        """
        if changes_logits(model):
            raise ValueError(
                "An intervention is attached to the model, and a copy would keep parts of it; copy the model before."
            )
        return copy.deepcopy(model).requires_grad_(True)


METHOD = FullCopy
