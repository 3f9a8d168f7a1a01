"""Ties a model's activations on replayed rows to those of a reference, for which a slow average of the model is meant.

    L_i = mean over the row's tokens, blocks and dimensions of (h_fast - h_slow)^2

h is what a block of the model puts out; h_slow takes no gradient.  With the average of an adapter as the reference it
makes I-LoRA: ``fit(..., reference=SlowAverage(model, decay=0.99, warm=True))``, in a recipe ``reference: {slow_average:
{decay: 0.99, warm: true}}``.

Paper: Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning (Ren et al., 2024), arXiv
    2402.18865 (I-LoRA).
Code: which47/LLMCL (method/ILORA.py).
Tags: retain, continual-learning, replay, adapter, loss, language-model.
Needs: ref, and the activations of all blocks of both models.
Differs: two-sided, as published; in the released code only entries below the reference are pulled up (``sides``). Each
    row is the mean over its own tokens and rows are averaged, where the code counts padding as tokens. The input
    embeddings, equal in both models and counted by the code all the same, are left out, and the last block is taken
    before the final norm. The released average never moves, since its weights are looked up under the names of the fast
    adapter; ``SlowAverage`` moves.
See: ``linear_path`` (the paper's analysis), ``reg_lora``, ``feature_distance`` (to a model that stays where it was).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import TokenView, Unit

__all__ = ["METHOD", "EmbeddingConsistency", "consistency"]

Sides = Literal["both", "below"]


def consistency(fast: Tensor, slow: Tensor, sides: Sides = "both") -> Tensor:
    """Mean squared difference over the last dimension, [..., D] -> [...]; ``below`` counts entries below ``slow``."""
    difference = fast - slow
    return (difference if sides == "both" else difference.clamp_max(0)).square().mean(-1)


@dataclass(frozen=True)
class EmbeddingConsistency(Objective):
    """``sides`` both is the published squared difference, below that of the released code."""

    sides: Sides = "both"

    unit: ClassVar[Unit] = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"ref", "hidden:blocks", "ref:hidden:blocks"})

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per row."""
        text = view.batch["attention_mask"].bool()  # [B, T]
        fast, slow = (v.hidden("blocks").float() for v in (view, view.ref))  # [B, T, blocks * D]
        values = torch.where(text, consistency(fast, slow.detach(), self.sides), 0.0)
        return values.sum(1) / text.sum(1)


METHOD = EmbeddingConsistency
