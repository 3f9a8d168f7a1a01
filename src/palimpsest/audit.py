"""A measurement of a model: always one value per item, so that before and after can be paired.

An audit asks a ``Subject`` four questions and nothing else, so it never learns which library or which
kind of model stands behind it.  It returns ``Scores``: the values, the ids of their items, and which
direction is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

__all__ = ["Audit", "Row", "Scores", "Statistic", "Subject", "Versus"]

Row = Mapping[str, Any]
"""One example as the user wrote it: ``prompt``, ``completion``, ``text``, ``messages``, ``inputs``, ``label``, …"""

Statistic = Literal["mean", "auc", "harmonic_mean"]
"""How items become one figure: their mean, the area under the ROC curve between ``groups`` 1 and 0, or the harmonic mean."""

Versus = Literal["difference", "relative", "ks"]
"""How a run is held against the reference run: difference of figures, 100 (a - r) / r (PrivLeak), or a two-sample KS test."""


class Subject(Protocol):
    """All that an audit may ask of a model. Every answer is in the order of the rows."""

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row: log-probability in nats of each scored target, float32 on CPU, [T_i]."""
        ...

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """Features, float32 on CPU, [N, D]."""
        ...

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Greedy continuation of each row's prompt, without the prompt."""
        ...

    def predict(self, rows: Sequence[Row]) -> Tensor:
        """Class log-probabilities, float32 on CPU, [N, C]."""
        ...


@dataclass(frozen=True)
class Scores:
    """One value per item.

    ``items`` [N] float; ``ids`` N names; ``better`` says in which direction an improvement lies, or
    ``nearer:<run>`` when the reference run is the goal.  ``groups`` [N] holds 0 or 1 where the statistic
    compares two groups.  ``outputs`` are generated texts, shown side by side in the report.
    """

    name: str
    items: Tensor
    ids: tuple[str, ...]
    better: str = "higher"
    role: str = ""
    statistic: Statistic = "mean"
    versus: Versus = "difference"
    groups: Tensor | None = None
    outputs: tuple[str, ...] | None = None
    unit: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items.ndim != 1 or len(self.items) != len(self.ids):
            raise ValueError(f"{self.name}: {len(self.ids)} ids for items of shape {tuple(self.items.shape)}; give one value per id.")
        if not len(self.ids):
            raise ValueError(f"{self.name}: nothing was measured; give the audit at least one item.")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name}: an id occurs twice; ids pair the runs, so each must be unique.")
        if not bool(torch.isfinite(self.items).all()):
            bad = self.ids[int((~torch.isfinite(self.items)).nonzero()[0, 0])]
            raise ValueError(f"{self.name}: the value of item {bad!r} is not finite; check that row and the model's outputs.")
        if self.groups is not None and self.groups.shape != self.items.shape:
            raise ValueError(f"{self.name}: groups of shape {tuple(self.groups.shape)} for {len(self.ids)} items.")


class Audit(Protocol):
    """A frozen dataclass whose call measures. ``data`` maps each role it needs to that role's rows."""

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """Measures ``subject`` on ``data[role]`` (and on further roles that the audit names)."""
        ...
