"""Keeps what enters the output layer where the base model of the first stage had it, in the L1 or L2 distance.

    L_t = mean over dimensions of |h_t - h_base,t|   or of   (h_t - h_base,t)^2

Paper: GeRe: Towards Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay (Zhang et al.,
    2025), arXiv 2508.04676, its baselines on features.
Code: none released.
Tags: retain, continual-learning, replay, loss, distillation, language-model.
Needs: nothing beside the model; one pass over the rows before the first stage, kept for all later ones.
Differs: nothing known. One value per position that predicts a scored token, as for any loss on tokens, so the state of
    a row's last token has no part in it.
See: ``threshold_margin`` (which holds states, not values, and stores the same), ``kl_to_reference`` (on distributions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.objectives.threshold_margin import BaseStates, base_states, stored
from palimpsest.roles import Roles
from palimpsest.views import TokenView, Unit

__all__ = ["METHOD", "FeatureDistance", "feature_distance"]


def feature_distance(hidden: Tensor, base: Tensor, norm: Literal["l1", "l2"]) -> Tensor:
    """Mean absolute or squared difference over dimensions, [..., D] -> [...]."""
    difference = hidden - base
    return (difference.abs() if norm == "l1" else difference.square()).mean(-1)


@dataclass(frozen=True)
class FeatureDistance(Objective):
    """``norm`` l1 is the mean absolute difference, l2 the mean squared one."""

    norm: Literal["l1", "l2"] = "l2"

    unit: ClassVar[Unit] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"hidden:last"})

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> BaseStates:
        """The base model's states on the role's rows."""
        return base_states(model, roles, role, previous)

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1], one value per scored position."""
        hidden, base = stored(view, state)
        return feature_distance(hidden, base, self.norm)[:, :-1]


METHOD = FeatureDistance
