"""Takes from a model's logits what a twin that was trained further on the forget set would add to them.

    z = v_target - alpha * max(0, v_reinforced - v_target)

v_target are the model's logits and v_reinforced those of the twin, of V tokens each.  Tokens that the twin raises are
what the forget set teaches, and are lowered; all others keep their logits.  The knowledge stays in the weights: the
model without the intervention still has it.

Paper: MUSE: Machine Unlearning Six-Way Evaluation for Language Models (Shi et al., 2024), arXiv 2407.06460 (its
    baseline WHP); the equation is that of Who's Harry Potter? Approximate Unlearning in LLMs (Eldan and Russinovich,
    2023), arXiv 2310.02238.
Code: jaechan-repo/muse_bench (baselines/baselines/whos_harry_potter.py).
Tags: forget, unlearning, inference-time, language-model.
Needs: a companion with the same vocabulary: a full copy of the model, trained further on forget with
    ``cross_entropy``.
Differs: Eldan and Russinovich fine-tune the model towards these logits, after replacing names of the text by common
    words; as in MUSE, the logits themselves answer here, and nothing is replaced. Figures from ``generate`` and all
    others use the same z, at least in float32. An alpha of 0 leaves the logits as they are.
See: ``full_copy`` (where the companion starts), ``task_vector`` (the same companion, in the weights),
    ``logit_difference`` (a small companion that also learns what to leave alone).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from palimpsest.interventions._joined_logits import joined_logits

__all__ = ["METHOD", "WhosHarryPotter", "lowered_logits"]


def lowered_logits(target: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Logits of both models [..., V] -> z [..., V], nowhere above ``target``.

    A constant added to the logits of one model changes which tokens are lowered: they are compared as they are.
    """
    return target - alpha * (reinforced - target).relu()


@dataclass(frozen=True)
class WhosHarryPotter:
    """``alpha`` >= 0 is how much of the difference is taken away; ``companion`` names it.

    MUSE takes the first of 1, 2, 4, 8 and 16 at which the model forgets enough.
    """

    alpha: float = 1.0
    companion: str = "reinforced"

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise ValueError(
                f"alpha is the share of the difference that is taken away, at least 0, not {self.alpha}; drop the sign."
            )

    def attach(self, model: nn.Module, companions: Mapping[str, nn.Module]) -> AbstractContextManager[nn.Module]:
        """A context in which ``model`` (plain, peft or DDP) answers without what the companion learned.

        Raises ``ValueError`` when the companion is missing, is the model itself, or has another vocabulary.
        """
        return joined_logits("WhosHarryPotter", model, companions, self.companion, self._joined)

    def _joined(self, target: Tensor, reinforced: Tensor, generating: bool) -> Tensor:
        """[B, T, V]: the same for scores and for generation."""
        return lowered_logits(target, reinforced, self.alpha)


METHOD = WhosHarryPotter
