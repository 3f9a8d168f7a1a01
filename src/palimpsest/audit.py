"""A measurement of a model: always one value per item, so that before and after can be paired.

An audit asks a ``Subject`` a few questions and nothing else, so it never learns which library or which
kind of model stands behind it.  It returns ``Scores``: the values, the ids of their items, and which
direction is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from palimpsest.views import Adapter

__all__ = [
    "NONNEGATIVE",
    "SHARE",
    "UNBOUNDED",
    "Audit",
    "Bounds",
    "OwnItems",
    "Rehearsal",
    "Row",
    "Scores",
    "Statistic",
    "Subject",
    "Telling",
    "Trainable",
    "Unmeasurable",
    "Versus",
    "answer_column",
    "as_text",
    "column",
    "role_rows",
    "row_ids",
    "row_name",
]

Row = Mapping[str, Any]
"""One example as the user wrote it: ``prompt``, ``completion``, ``text``, ``messages``, ``inputs``, ``label``, …"""

Statistic = Literal["mean", "auc", "harmonic_mean"]
"""How items become one figure: mean, area under the ROC curve of ``groups`` 1 against 0, or harmonic mean."""

Bounds = tuple[float, float]
"""The lowest and the highest value that there can be; infinite where there is no end."""
SHARE: Bounds = (0.0, 1.0)
NONNEGATIVE: Bounds = (0.0, math.inf)
UNBOUNDED: Bounds = (-math.inf, math.inf)

Versus = Literal["difference", "relative", "ks"]
"""How a run is held against the reference run: difference, 100 (a - r) / r (PrivLeak), or a two-sample KS test."""


class Subject(Protocol):
    """All that an audit may ask of a model. Every answer is in the order of the rows."""

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row: log-probability in nats of each scored target, float32 on CPU, [T_i]."""
        ...

    def matches(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row: whether each scored target is the model's most likely one there, bool on CPU, [T_i]."""
        ...

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """Features, float32 on CPU, [N, D]."""
        ...

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Greedy continuation of each row's prompt, without the prompt."""
        ...

    def sample(
        self, rows: Sequence[Row], max_new_tokens: int, *, count: int, seeds: Sequence[int], temperature: float = 1.0
    ) -> list[list[str]]:
        """``count`` random continuations of each row's prompt, which depend on that row and its seed alone."""
        ...

    def truncate(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The first ``tokens`` tokens of each text, as text: what ``generate`` could say at most."""
        ...

    def predict(self, rows: Sequence[Row]) -> Tensor:
        """Class log-probabilities, float32 on CPU, [N, C]."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A subject that shows its model and the adapter that feeds it, so that an audit may train a copy."""

    @property
    def model(self) -> nn.Module:
        """The model itself; an audit never changes it."""
        ...

    @property
    def adapter(self) -> Adapter:
        """What turns rows into batches, and a model into a subject."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A subject that tells how far it is: ``told(answered, asked)``, in rows of one question, after each batch."""

    told: Callable[[int, int], None]


@runtime_checkable
class OwnItems(Protocol):
    """An audit that says whether its items are others than the rows of its role, each once: some of them, or pairs."""

    own_items: bool


@runtime_checkable
class Rehearsal(Protocol):
    """A subject without a model, with which an audit is tried beforehand: it looks at rows and answers nothing.

    An audit that trains a copy gives it the rows and goes on as if that were done.
    """

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raises ``Unmeasurable`` for a row that no model could be trained on."""
        ...


@dataclass(frozen=True)
class Scores:
    """One value per item.

    ``items`` [N] float; ``ids`` N names; ``better`` says in which direction an improvement lies, or
    ``nearer:<run>`` when the reference run is the goal.  ``groups`` [N] holds 0 or 1 where the statistic
    compares two groups.  ``outputs`` are generated texts, shown side by side in the report.  ``bounds`` are those of
    the items, whatever the model; intervals end there.
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
    bounds: Bounds = UNBOUNDED

    def __post_init__(self) -> None:
        if self.items.ndim != 1 or len(self.items) != len(self.ids):
            raise ValueError(
                f"{self.name}: {len(self.ids)} ids for items of shape {tuple(self.items.shape)}; give one value per id."
            )
        if not len(self.ids):
            raise ValueError(f"{self.name}: nothing was measured; give the audit at least one item.")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name}: an id occurs twice; ids pair the runs, so each must be unique.")
        if not bool(torch.isfinite(self.items).all()):
            bad = self.ids[int((~torch.isfinite(self.items)).nonzero()[0, 0])]
            raise ValueError(
                f"{self.name}: the value of item {bad!r} is not finite; check that row and the model's outputs."
            )
        if self.groups is not None and self.groups.shape != self.items.shape:
            raise ValueError(f"{self.name}: groups of shape {tuple(self.groups.shape)} for {len(self.ids)} items.")

    @property
    def range(self) -> Bounds:
        """The bounds of the figure: an AUC is a share, and a mean lies among its items."""
        return SHARE if self.statistic == "auc" else self.bounds


class Audit(Protocol):
    """A frozen dataclass whose call measures. ``data`` maps each role it needs to that role's rows."""

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """Measures ``subject`` on ``data[role]`` (and on further roles that the audit names)."""
        ...


class Unmeasurable(ValueError):
    """The data lacks what an audit reads: a role, a column, or something in a row. No model could mend that."""


def row_ids(rows: Sequence[Row], role: str) -> tuple[str, ...]:
    """What pairs the rows of two runs: each row's ``id``, or ``role/position`` where it has none.

    The position begins at 0 and is part of a name; see ``row_name`` for sentences.
    """
    return tuple(str(row["id"]) if "id" in row else f"{role}/{i}" for i, row in enumerate(rows))


def row_name(row: Row, number: int) -> str:
    """How a sentence names the row that is number ``number``, counted from 1: by its ``id`` where it has one."""
    return repr(str(row["id"])) if "id" in row else str(number)


def role_rows(data: Mapping[str, Sequence[Row]], role: str, audit: str) -> Sequence[Row]:
    """The rows of one role; raises ``Unmeasurable`` where there are none, naming the audit that asks."""
    rows = data.get(role, ())
    if not len(rows):
        there = ", ".join(sorted(name for name in data if len(data[name]))) or "none"
        raise Unmeasurable(f"{audit} needs rows of the role {role!r}; add it under roles (there are: {there}).")
    return rows


def as_text(answer: Any) -> Any:
    """An answer to choose among, which may be a number, as a model is asked about it; anything else as it is."""
    return str(answer) if isinstance(answer, int | float) else answer


def column(rows: Sequence[Row], name: str, role: str, audit: str, first: int = 1) -> list[Any]:
    """One column of all rows, of which the first is number ``first`` of its role.

    Raises ``Unmeasurable`` for a row that lacks it or has it empty, naming the row.
    """
    for number, row in enumerate(rows, first):
        value = row.get(name)
        if value is None or (isinstance(value, str | list | tuple) and not len(value)):
            raise Unmeasurable(
                f"{audit}: the {role} row {row_name(row, number)} has no {name}; fill it or take another audit (its"
                f" columns: {', '.join(map(str, row))})."
            )
    return [row[name] for row in rows]


def answer_column(rows: Sequence[Row], name: str, role: str, audit: str) -> list[list[Any]]:
    """One column of all rows as lists of answers; a text, or the messages of one answer, is a list of one.

    Raises ``Unmeasurable`` for a row that lacks it or has it empty, naming the row.
    """
    return [_answers(value) for value in column(rows, name, role, audit)]


def _answers(value: Any) -> list[Any]:
    several = isinstance(value, list | tuple) and not any(isinstance(v, Mapping) for v in value)
    return list(value) if several else [value]
