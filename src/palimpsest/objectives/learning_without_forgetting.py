"""Keeps what the old model said about the old classes, on the new task's rows.

    L_i = KL( softmax_{c old}(z'_ic / T) || softmax_{c old}(z_ic / T) )

z are the logits and z' those of the model before the stage. Classes that are not old take no part, in neither softmax.

Paper: Learning without Forgetting (Li and Hoiem, 2016), arXiv 1606.09282.
Code: ContinualAI/avalanche (LearningWithoutForgetting), aimagelab/mammoth (lwf).
Tags: retain, continual-learning, distillation, loss, classifier.
Needs: ref, the model before the stage.
Differs: the paper and mammoth take the cross-entropy, which is this plus the entropy of the old distribution, with the
    same gradient; here L is 0 where nothing was forgotten. As in both releases there is no factor T^2. A third release
    takes the softmax over all classes and then picks the old ones; what it minimizes is no divergence.
See: ``kl_to_reference`` (all classes, T = 1), ``dark_experience`` (on stored rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives.kl_to_reference import kl_divergence
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "LearningWithoutForgetting", "learning_without_forgetting"]


def learning_without_forgetting(logits: Tensor, ref_logits: Tensor, temperature: float) -> Tensor:
    """Logits of the old classes alone, [B, C_old] each -> [B] in nats, at least 0."""
    return kl_divergence((ref_logits / temperature).log_softmax(-1), (logits / temperature).log_softmax(-1))


@dataclass(frozen=True)
class LearningWithoutForgetting(Objective):
    """``classes``: the old ones (none named: all of the model's); ``temperature`` T > 0."""

    classes: tuple[int, ...] = ()
    temperature: float = 2.0

    unit: ClassVar[Unit] = "example"
    needs: ClassVar[frozenset[str]] = frozenset({"ref"})

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}.")
        if len(set(self.classes)) != len(self.classes) or any(c < 0 for c in self.classes):
            raise ValueError(f"classes names each old class once, by its number, not {self.classes}.")
        if len(self.classes) == 1:
            raise ValueError("classes names one class, over which a softmax is always 1; name two or more.")

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B]."""
        logits, ref = view.logits, view.ref.logits.detach()
        if self.classes:
            if max(self.classes) >= logits.shape[1]:
                raise ValueError(f"classes names {max(self.classes)}, but the model tells {logits.shape[1]} apart.")
            kept = list(self.classes)
            logits, ref = logits[:, kept], ref[:, kept]
        return learning_without_forgetting(logits, ref, self.temperature)


METHOD = LearningWithoutForgetting
