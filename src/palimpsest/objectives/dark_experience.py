"""Keeps the model's logits on replayed rows where they were when the rows came into the buffer.

    DER:    L_i = 1/C sum over classes c of (z_ic - z'_ic)^2          z' stored when row i was first replayed
    DER++:  that, plus the cross-entropy of replayed rows

DER++ is a sum of terms, on two roles so that each has a batch of its own, as in the paper:

    on("task", CrossEntropy()) + 0.3 * on("replay", DarkExperience()) + 0.5 * on("again", CrossEntropy())

Paper: Dark Experience for General Continual Learning (Buzzega et al., 2020), arXiv 2004.07211, equations 5 and 6.
Code: aimagelab/mammoth (der, derpp).
Tags: retain, continual-learning, distillation, replay, loss, classifier.
Needs: a replay role under ``select``; nothing else, since the logits are stored with the rows.
Differs: logits are stored at the start of the first stage (or k-FPF round) that replays a row, and kept for all later
    ones; the released code stores them at the step in which the row was seen, in the middle of training. As there, the
    mean is over rows and classes, so the weight is one per entry, where the paper writes the squared norm.
See: ``reservoir`` (the buffer), ``learning_without_forgetting`` (without a buffer), ``kl_to_reference`` (logits anew).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.data import row_key
from palimpsest.objective import Objective
from palimpsest.reference import evaluating
from palimpsest.roles import Roles, seeded
from palimpsest.views import LabelView, Unit

__all__ = ["METHOD", "DarkExperience", "Remembered", "dark_experience"]

_ROWS_A_PASS = 64


def dark_experience(logits: Tensor, stored: Tensor) -> Tensor:
    """Equation 5 on logits [B, C] each -> [B], the mean over classes of the squared difference."""
    return (logits - stored).square().mean(-1)


class Remembered(nn.Module):
    """Stored logits [N, C], the rows they belong to [N], and where in ``logits`` those of a role's row are [R]."""

    rows: Tensor
    logits: Tensor
    place: Tensor

    def __init__(self, rows: Tensor, logits: Tensor, place: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("logits", logits)
        self.register_buffer("place", place)

    def of(self, index: Tensor) -> Tensor:
        """[B, C] logits of rows by their index in the role."""
        place = self.place[index]
        if bool((place < 0).any()):
            raise ValueError("A replayed row has no stored logits; select the buffer before the stage, not during it.")
        return self.logits[place]


@dataclass(frozen=True)
class DarkExperience(Objective):
    """Has no fields: the weight of the term is the paper's alpha."""

    unit: ClassVar[Unit] = "example"

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> Remembered:
        """Stores the logits of the buffer's rows that have none yet; those of rows that left it are dropped."""
        role = roles.source(role)
        chosen = roles.selections.get(role)
        held = list(range(len(roles[role]))) if chosen is None else chosen.index.tolist()
        names = [seeded(row_key(roles.rows[role][i])) for i in held]
        known = {} if previous is None else dict(zip(previous["rows"].tolist(), previous["logits"]))
        new = [i for i, name in zip(held, names) if name not in known]
        fresh = dict(zip(new, _logits(model, roles, role, new)))
        device = next(model.parameters()).device
        stored = torch.stack([known[name] if name in known else fresh[i] for i, name in zip(held, names)])
        place = torch.full((len(roles[role]),), -1)
        place[held] = torch.arange(len(held))
        return Remembered(torch.tensor(names), stored, place).to(device)

    def __call__(self, view: LabelView, state: nn.Module | None = None) -> Tensor:
        """[B]."""
        if not isinstance(state, Remembered):
            raise ValueError("No logits are stored; train with fit(), or pass evaluate(…, states=prepare(…)).")
        return dark_experience(view.logits, state.of(view.batch["index"]))


def _logits(model: nn.Module, roles: Roles, role: str, index: list[int]) -> list[Tensor]:
    """The logits of some rows of a role as the model gives them now, [C] each."""
    examples = roles[role]
    found: list[Tensor] = []
    device = next(model.parameters()).device
    for first in range(0, len(index), _ROWS_A_PASS):
        batch = roles.adapter.collate([examples[i] for i in index[first : first + _ROWS_A_PASS]])
        with evaluating(model):
            view = roles.adapter.views(model, {role: {k: v.to(device) for k, v in batch.items()}}, [role])[role]
        assert isinstance(view, LabelView)
        found.extend(view.logits.detach())
    return found


METHOD = DarkExperience
