"""Draws rows of one class together on the unit sphere, and away from all others.

    L_i = -(T / T_base) (1 / |P(i)|) sum_{p in P(i)} log( exp(z_i . z_p / T) / sum_{a != i} exp(z_i . z_a / T) )

z are unit vectors of two views of each row, 2 B anchors in all; P(i) are the other anchors of i's class. With ``width``
z is a two-layer projection g of the features, trained beside the model and thrown away with the stage's last model.

    roles: {one: {augment: {shift: 1}, of: task}, two: {augment: {shift: 1}, of: task}}
    objective: [{on: [one, two], supervised_contrastive: {width: 128}}]

Paper: Supervised Contrastive Learning (Khosla et al., 2020), arXiv 2004.11362, equation 2; as used by Asadi et al.
    (2023), arXiv 2303.14771.
Code: naderAsadi/Probing-Continual-Learning (losses/supcon_loss.py), KevinMusgrave/pytorch-metric-learning (SupConLoss).
Tags: learn, loss, classifier.
Needs: nothing but features: name their module with ``features``.
Differs: an anchor without a positive counts 0 where the released code gives NaN (with two views there is none);
    pytorch-metric-learning has no factor T / T_base and leaves anchors of value 0 out of its mean. g takes plain
    gradient steps of its own.
See: ``prototype_relation``, with which it makes up PRD; ``cross_entropy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective, Pairing, descend
from palimpsest.reference import evaluating
from palimpsest.roles import Roles, seeded
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "SupervisedContrastive", "features_of", "supervised_contrastive"]


def supervised_contrastive(z: Tensor, labels: Tensor, temperature: float, base_temperature: float) -> Tensor:
    """Unit vectors [M, D] and labels [M] of all anchors -> [M], at least 0."""
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    scores = (z @ z.T / temperature).masked_fill(itself, -torch.inf)  # [M, M]
    log_probs = scores.log_softmax(-1).masked_fill(itself, 0.0)
    positive = (labels[:, None] == labels) & ~itself
    return -temperature / base_temperature * (log_probs * positive).sum(1) / positive.sum(1).clamp_min(1)


def features_of(model: nn.Module, roles: Roles, role: str) -> int:
    """D, the width of the features that the role's views have."""
    role = roles.source(role)
    batch = next(roles.in_order(role, 1)).to(next(model.parameters()).device)
    with evaluating(model):
        view = roles.adapter.views(model, batch, [role])[role]
    assert isinstance(view, LabelView)
    return view.features.flatten(1).shape[1]


@dataclass(frozen=True)
class SupervisedContrastive(Objective):
    """``width`` of the projection's output and hidden layer, 0 for the features themselves."""

    temperature: float = 0.1
    base_temperature: float = 0.07
    width: int = 0
    learning_rate: float = 0.01

    unit: ClassVar[Unit] = "pair"
    arity: ClassVar[int] = 2
    pairs: ClassVar[Pairing] = "rows"
    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("temperature", "base_temperature", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if self.width < 0:
            raise ValueError(f"width must not be negative, not {self.width}; 0 is no projection.")

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> nn.Module | None:
        """The projection, as the stage before has left it."""
        if not self.width:
            return None
        entering = features_of(model, roles, role)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded("projection", entering, self.width))
            projection = nn.Sequential(nn.Linear(entering, self.width), nn.ReLU(), nn.Linear(self.width, self.width))
        if previous is not None:
            projection.load_state_dict(dict(previous))
        return projection.to(next(model.parameters()))

    def __call__(self, views: tuple[LabelView, LabelView], state: nn.Module | None = None) -> Tensor:
        """[B], the mean of a row's two anchors."""
        features = torch.cat([view.features.flatten(1) for view in views])  # [2 B, D]
        labels = torch.cat([view.labels for view in views])
        z = F.normalize(features if state is None else state(features), dim=1)
        items = supervised_contrastive(z, labels, self.temperature, self.base_temperature)
        return items.view(2, -1).mean(0)

    def after_step(self, model: nn.Module, state: nn.Module | None) -> None:
        """The projection's own step."""
        if state is not None:
            descend(state, self.learning_rate)


METHOD = SupervisedContrastive
