"""Lets only those layers move that change most when the data change: normalization and the classifier, as a rule.

    C_l = (1 / |theta_l|) ||theta_l - theta_l'||_1;    S_l = mean of C_l over the changes of task
    F = the groups named in ``modules``, or the ``top`` groups by S_l

theta' is the model some steps earlier.  A layer is one group (``conv1``), a normalization layer two: its affine weights
(``norm1.affine``) and its running statistics (``norm1.statistics``).  ``normalization`` means all groups of such
layers, ``first`` and ``last`` the first and the last layer with weights.  All else is frozen: weights, running
statistics, and the mode of their layers, which is eval.

Paper: Does Continual Learning Equally Forget All Parameters? (Zhao et al., 2023), arXiv 2304.04158, forgetting
    prioritized finetuning (FPF).
Code: none released.
Tags: retain, continual-learning, mask, replay, classifier, language-model.
Needs: nothing for named groups; with ``top`` a copy of the model is trained for ``steps`` steps on the role ``on``.
Differs: the paper measures S_l while it trains on a stream of tasks; a stage sees one change of task, from the data
    before it to ``on``, and measures there, by plain SGD without momentum or decay. ``sensitivity`` does the same for
    any two states of a model, such as those that a stream has left behind. Counters (num_batches_tracked) do not count.
See: ``k_fpf`` (rounds of this during training); ``cross_entropy`` on a replay role, which is trained under the mask.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.loop import Training, fit
from palimpsest.mask import Mask
from palimpsest.objective import on as on_role
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles

__all__ = ["METHOD", "ForgettingPrioritized", "layer_groups", "mask_of", "named_groups", "sensitivity"]

_NORMALIZATION = re.compile(r"Norm(\dd)?$")
"""By name, since every family of language models brings a class of its own (LlamaRMSNorm)."""


def _is_normalization(module: nn.Module) -> bool:
    return _NORMALIZATION.search(type(module).__name__) is not None


def layer_groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Group -> the names of its weights and buffers, in the order of the model; tied weights belong to the first."""
    found: dict[str, tuple[str, ...]] = {}
    first = {id(p): name for name, p in model.named_parameters()}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        weights = tuple(
            f"{prefix}{n}" for n, p in module.named_parameters(recurse=False) if first[id(p)] == f"{prefix}{n}"
        )
        buffers = tuple(f"{prefix}{n}" for n, _ in module.named_buffers(recurse=False))
        if _is_normalization(module):
            parts = {f"{prefix}affine": weights, f"{prefix}statistics": buffers}
        else:
            parts = {name: weights + buffers if weights else ()}
        found.update({group: names for group, names in parts.items() if names})
    return found


def named_groups(model: nn.Module, modules: Collection[str]) -> set[str]:
    """The groups that ``modules`` mean. Raises ``ValueError`` for a name that the model lacks."""
    groups = layer_groups(model)
    norms = {name for name, module in model.named_modules() if _is_normalization(module)}
    normalization = {g for g in groups if g.rpartition(".")[0] in norms}
    plain = [g for g in groups if g not in normalization]
    short = {"normalization": normalization, "first": set(plain[:1]), "last": set(plain[-1:])}
    found: set[str] = set()
    for wanted in modules:
        inside = {g for g in groups if g == wanted or g.startswith(f"{wanted}.")} or short.get(wanted)
        if not inside:
            raise ValueError(
                f"The model has no layer {wanted!r} with weights or statistics; there are: {', '.join(groups)}."
            )
        found |= inside
    return found


def sensitivity(model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """C_l of every group between two ``state_dict`` of ``model``: the mean absolute change of an entry."""
    found = {}
    for group, names in layer_groups(model).items():
        moved = [(after[n] - before[n]).abs().double() for n in names if n in before and before[n].is_floating_point()]
        if moved:
            found[group] = float(sum(m.sum() for m in moved)) / sum(m.numel() for m in moved)
    return found


def mask_of(model: nn.Module, chosen: Collection[str], why: str = "") -> Mask:
    """The mask under which exactly the groups ``chosen`` move; what a group does not name is frozen."""
    groups = layer_groups(model)
    moving = {name for group in chosen for name in groups[group]}
    moves = {n: torch.full(p.shape, n in moving, dtype=torch.bool) for n, p in model.named_parameters()}
    still = {
        name
        for name, module in model.named_modules()
        if any(f"{name}.{b}".lstrip(".") not in moving for b, _ in module.named_buffers(recurse=False))
    }
    return Mask(moves, why or f"only {', '.join(sorted(chosen)) or 'nothing'}", frozenset(still))


@dataclass(frozen=True)
class ForgettingPrioritized:
    """``modules`` may move; with ``top``, instead, that many groups which move most in ``steps`` steps on ``on``."""

    modules: tuple[str, ...] = ("normalization", "last")
    top: int | None = None
    on: str = "task"
    steps: int = 20
    batch: int = 32
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top must be at least 1, not {self.top}; name modules instead, or leave the mask out.")
        if self.steps < 1 or self.batch < 1 or not self.learning_rate > 0:
            raise ValueError("steps, batch and learning_rate must be above 0.")

    def __call__(self, model: nn.Module, roles: Roles) -> Mask:
        """Chooses at the weights as they are now; the model is left alone."""
        if self.top is None:
            return mask_of(model, named_groups(model, self.modules))
        if self.on not in roles:
            raise ValueError(f"Sensitivity is measured on the role {self.on!r}, which has no rows; name another in on.")
        moved = copy.deepcopy(model)
        training = Training(
            steps=self.steps, batch=self.batch, lr=self.learning_rate, optimizer=_plain_sgd, weight_decay=0.0, clip=None
        )
        with torch.random.fork_rng(devices=[]):
            fit(moved, roles, on_role(self.on, CrossEntropy()), training)
        scores = sensitivity(model, model.state_dict(), moved.state_dict())
        chosen = sorted(scores, key=lambda group: -scores[group])[: self.top]
        return mask_of(model, chosen, f"the most sensitive to {self.on}: {', '.join(chosen)}")


def _plain_sgd(parameters: list[dict[str, object]], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Without momentum, so that every entry moves by its gradients alone."""
    return torch.optim.SGD(parameters, lr=lr)


METHOD = ForgettingPrioritized
