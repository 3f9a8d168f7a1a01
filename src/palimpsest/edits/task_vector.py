"""Moves a model's weights away from a twin that was trained further on the forget set.

    theta = theta_target - alpha * (theta_reinforced - theta_target)

The difference is the task vector: the direction in which the weights went while they learned the forget set still
better.  The model goes the same way backwards.

Paper: MUSE: Machine Unlearning Six-Way Evaluation for Language Models (Shi et al., 2024), arXiv 2407.06460 (its
    baseline Task Vectors); the vectors are those of Editing Models with Task Arithmetic (Ilharco et al., 2023), arXiv
    2212.04089 (section 3).
Code: jaechan-repo/muse_bench (baselines/baselines/task_vector.py).
Tags: forget, unlearning, weight-edit.
Needs: a companion: a full copy of the model, trained further on forget with ``cross_entropy``.
Differs: Ilharco et al. take the vector from the pre-trained model to one fine-tuned on what is to be forgotten; as in
    MUSE, it begins at the model itself, which knows the forget set already. Parameters are moved and buffers are not.
    The difference of half-precision weights is kept in float32 and rounded once, when the weights are stored.
See: ``full_copy`` (where the companion starts), ``whos_harry_potter`` (the same companion, at inference),
    ``cross_entropy``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.patch import Patch
from palimpsest.roles import Roles

__all__ = ["METHOD", "TaskVector", "negated"]


def negated(target: Mapping[str, Tensor], reinforced: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Weights by name, of both models -> what is added to the target's: -alpha (reinforced - target).

    At least float32, on the target's device; a weight that does not change is left out.  Raises ``ValueError`` where a
    weight of the target is missing in the other, or has another shape there.
    """
    found: dict[str, Tensor] = {}
    for name, own in target.items():
        other = reinforced.get(name)
        if other is None or other.shape != own.shape:
            lacks = "lacks it" if other is None else f"has it as {tuple(other.shape)}"
            raise ValueError(
                f"The model has the weight {name!r} of shape {tuple(own.shape)}, and the companion {lacks}; start the "
                "companion with full_copy, and edit the model in a stage without lora."
            )
        wide = torch.promote_types(own.dtype, torch.float32)
        change = (other.detach().to(own.device, wide) - own.detach().to(wide)).mul_(-alpha)
        if bool(change.any()):
            found[name] = change
    return found


@dataclass(frozen=True)
class TaskVector:
    """``alpha`` >= 0 is how far the model goes, in lengths of the vector; ``companion`` names the other model.

    MUSE takes the first of 1, 2, 4, 8 and 16 at which the model forgets enough.
    """

    alpha: float = 1.0
    companion: str = "reinforced"

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise ValueError(
                f"alpha is how far the model goes from the companion, at least 0, not {self.alpha}; drop the sign."
            )

    def __call__(self, model: nn.Module, roles: Roles, companions: Mapping[str, nn.Module] | None = None) -> Patch:
        """The patch of every parameter in which both models differ; it looks at no row.

        Raises ``ValueError`` when the companion is missing, is the model itself, or is no copy of it.
        """
        there = companions or {}
        reinforced = there.get(self.companion)
        if reinforced is None:
            raise ValueError(
                f"There is no companion {self.companion!r} (there are: {', '.join(there) or 'none'}); train one in an "
                "earlier stage."
            )
        if reinforced is model:
            raise ValueError(f"The companion {self.companion!r} is the model itself; start it as a copy.")
        delta = negated(dict(model.named_parameters()), dict(reinforced.named_parameters()), self.alpha)
        return Patch(delta, f"{self.alpha:g} task vectors away from the companion {self.companion}")


METHOD = TaskVector
