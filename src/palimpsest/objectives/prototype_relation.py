"""Learns one prototype a class beside the encoder, and keeps how old prototypes relate to new samples.

    L   = alpha L_P + beta L_D
    L_P = mean_i ( 1 - cos(sg f(x_i), p_{y_i}) )                    y_i of this stage; sg: no gradient
    L_D = sum over old stages u of mean_i KL( softmax_{c in u}(s'_ic / tau) || softmax_{c in u}(s_ic / tau) )
    s_ic = f(x_i) . p_c / |p_c|;    s' the same of the model and the prototypes before the stage

L_D moves the encoder and the old prototypes, so that both go together. A class is predicted by the largest cosine;
with ``head`` the rows of that linear layer are the unit prototypes after every step, and so the model predicts by them.
Beside ``supervised_contrastive`` on the same views this is PRD:

    on(views, SupervisedContrastive(width=128)) + on(views, PrototypeRelation(head="head"))

Paper: Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning (Asadi et al., 2023), arXiv
    2303.14771.
Code: naderAsadi/Probing-Continual-Learning (methods/repe.py).
Tags: retain, continual-learning, distillation, loss, classifier.
Needs: ref, the model before the stage, as a copy; features: name their module with ``features``; stages of new classes,
    since a class that comes again is one of the current stage and nothing of it is distilled; steps enough for the
    prototypes: with K classes in a batch one turns by at most pull * learning_rate / (K |p|^2) radians a step, |p| 0.6.
Differs: ``axis`` samples takes the softmax over the samples of the batch, for each old prototype, which is how others
    read the paper; the default is the released code's. The code's teacher stays in train mode, here it is in eval mode;
    its labels are shifted in place, here they are not. Prototypes begin when their class is first seen.
See: ``supervised_contrastive``, ``learning_without_forgetting`` (distills logits), ``task_accuracy`` (task known).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective, Pairing, descend
from palimpsest.objectives.kl_to_reference import kl_divergence
from palimpsest.objectives.supervised_contrastive import features_of
from palimpsest.roles import Roles, seeded
from palimpsest.views import LabelView, Unit

__all__ = [
    "METHOD", "PrototypeRelation", "Prototypes", "cosine_scores", "over_classes", "over_samples", "prototype_pull",
]  # fmt: skip

_ABSENT = -1e4
"""The bias of a class without a prototype: it is never predicted."""


def prototype_pull(features: Tensor, own: Tensor) -> Tensor:
    """L_P of each row: features [B, D] and the prototype of its class [B, D] -> [B], from 0 to 2."""
    return 1 - F.cosine_similarity(features.detach(), own, dim=1)


def _relations(features: Tensor, prototypes: Tensor, tau: float) -> Tensor:
    """[B, K] scores s / tau: features as they are, prototypes of length 1."""
    return features @ F.normalize(prototypes, dim=1).T / tau


def over_classes(
    features: Tensor, prototypes: Tensor, old_features: Tensor, old_prototypes: Tensor, tau: float
) -> Tensor:
    """L_D of each row over the classes of one stage, [B, D], [K, D] and the same before -> [B]."""
    before = _relations(old_features, old_prototypes, tau).log_softmax(1)
    return kl_divergence(before, _relations(features, prototypes, tau).log_softmax(1))


def over_samples(
    features: Tensor, prototypes: Tensor, old_features: Tensor, old_prototypes: Tensor, tau: float
) -> Tensor:
    """A row's part of L_D over the samples, [B], whose mean is the mean over prototypes of KL over the samples."""
    before = _relations(old_features, old_prototypes, tau).log_softmax(0)  # [B, K]
    now = _relations(features, prototypes, tau).log_softmax(0)
    return len(features) * (before.exp() * (before - now)).mean(1)


def cosine_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """[B, D] and [K, D] -> [B, K] cosines, by which a class is predicted."""
    return F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T


class Prototypes(nn.Module):
    """The prototypes [K, D] of all classes seen, their classes [K], and the stage [K] in which each was first seen.

    ``before`` [K, D] are the prototypes as the stage began; ``current`` [K] marks the classes of this stage.
    """

    classes: Tensor
    stage: Tensor
    before: Tensor
    current: Tensor

    def __init__(self, vectors: Tensor, classes: Tensor, stage: Tensor, current: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone())
        for name, value in (("classes", classes), ("stage", stage), ("before", vectors.clone()), ("current", current)):
            self.register_buffer(name, value)

    def place(self, labels: Tensor) -> Tensor:
        """[B] where each label's prototype stands; raises ``ValueError`` for a class that is not of this stage."""
        match = (labels[:, None] == self.classes) & self.current  # [B, K]
        if not bool(match.any(1).all()):
            stray = int(labels[~match.any(1)][0])
            raise ValueError(f"The label {stray} has no prototype in this stage; train on the rows that prepare saw.")
        return match.int().argmax(1)

    def old(self) -> list[Tensor]:
        """Places of the prototypes of each earlier stage, without classes that this stage has too."""
        kept = ~self.current
        stages = sorted(set(self.stage[kept].tolist()))
        return [((self.stage == s) & kept).nonzero().flatten() for s in stages]


@dataclass(frozen=True)
class PrototypeRelation(Objective):
    """``pull`` is the paper's alpha, ``relation`` its beta, ``temperature`` its tau; prototypes have their own rate."""

    pull: float = 2.0
    relation: float = 4.0
    temperature: float = 1.0
    axis: Literal["prototypes", "samples"] = "prototypes"
    normalize_features: bool = False
    learning_rate: float = 0.01
    head: str = ""

    unit: ClassVar[Unit] = "pair"
    arity: ClassVar[int] = 2
    pairs: ClassVar[Pairing] = "rows"
    needs: ClassVar[frozenset[str]] = frozenset({"ref"})
    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.pull, self.relation) < 0:
            raise ValueError(f"pull and relation must not be negative, but are {self.pull} and {self.relation}.")
        if not (self.temperature > 0 and self.learning_rate > 0):
            raise ValueError("temperature and learning_rate must be above 0.")

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> Prototypes:
        """Prototypes of the classes seen so far as they are now, and new ones for the classes of ``role``."""
        width = features_of(model, roles, role)
        given = sorted({int(example["labels"]) for example in roles[roles.source(role)]})
        vectors, classes, stages = torch.empty(0, width), torch.empty(0, dtype=torch.int64), torch.empty(0)
        if previous is not None:
            vectors, classes, stages = (previous[n].cpu() for n in ("vectors", "classes", "stage"))
            if vectors.shape[1] != width:
                raise ValueError(
                    f"The prototypes have {vectors.shape[1]} entries and the features now {width}; keep the width."
                )
        new = [c for c in given if c not in classes.tolist()]
        number = int(stages.max()) + 1 if len(stages) else 0
        vectors = torch.cat([vectors, *(_start(c, width, vectors.dtype) for c in new)])
        classes = torch.cat([classes, torch.tensor(new, dtype=torch.int64)])
        stages = torch.cat([stages.long(), torch.full((len(new),), number)])
        state = Prototypes(vectors, classes, stages, torch.isin(classes, torch.tensor(given)))
        self._layer(model, state)
        return state.to(next(model.parameters()))

    def __call__(self, views: tuple[LabelView, LabelView], state: nn.Module | None = None) -> Tensor:
        """[B], the mean of a row's two views."""
        if not isinstance(state, Prototypes):
            raise ValueError("There are no prototypes; train with fit(), or pass evaluate(…, states=prepare(…)).")
        features = torch.cat([view.features.flatten(1) for view in views])  # [2 B, D]
        place = state.place(torch.cat([view.labels for view in views]))
        items = self.pull * prototype_pull(features, state.vectors[place])
        groups = state.old()
        if groups and self.relation:
            before = torch.cat([view.ref.features.flatten(1) for view in views]).detach()
            items = items + self.relation * self._relation(features, before, state, groups)
        return items.view(2, -1).mean(0)

    def _relation(self, features: Tensor, before: Tensor, state: Prototypes, groups: list[Tensor]) -> Tensor:
        """L_D of each view, [2 B]."""
        if self.normalize_features:
            features, before = F.normalize(features, dim=1), F.normalize(before, dim=1)
        if self.axis == "samples":
            old = torch.cat(groups)
            return over_samples(features, state.vectors[old], before, state.before[old], self.temperature)
        parts = [over_classes(features, state.vectors[u], before, state.before[u], self.temperature) for u in groups]
        return torch.stack(parts).sum(0)

    def after_step(self, model: nn.Module, state: nn.Module | None) -> None:
        """The prototypes' own step; the head then predicts by cosine, since |f| is the same for all classes."""
        assert isinstance(state, Prototypes)
        descend(state, self.learning_rate)
        layer = self._layer(model, state)
        if layer is not None:
            with torch.no_grad():
                layer.weight.zero_()
                layer.bias.fill_(_ABSENT)
                layer.weight[state.classes] = F.normalize(state.vectors, dim=1)
                layer.bias[state.classes] = 0.0

    def _layer(self, model: nn.Module, state: Prototypes) -> nn.Linear | None:
        """The layer that ``head`` names. Raises ``ValueError`` for one that cannot hold the prototypes."""
        if not self.head:
            return None
        layer = dict(model.named_modules()).get(self.head)
        if not isinstance(layer, nn.Linear) or layer.bias is None or layer.in_features != state.vectors.shape[1]:
            raise ValueError(
                f"{self.head!r} cannot hold prototypes of {state.vectors.shape[1]} entries; name the linear layer (with"
                " bias) that the features enter."
            )
        return layer


def _start(label: int, width: int, dtype: torch.dtype) -> Tensor:
    """[1, D] a class's prototype before training, as a linear layer begins; the same in every run."""
    generator = torch.Generator().manual_seed(seeded("prototype", label, width))
    return (2 * torch.rand(1, width, generator=generator, dtype=dtype) - 1) / math.sqrt(width)


METHOD = PrototypeRelation
