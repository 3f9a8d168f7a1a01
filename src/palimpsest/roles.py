"""Data says what it is for: named roles, and one seeded order that all of them share.

    roles = Roles(adapter, {"forget": rows, "retain": rows})
    for batch in roles.batches(8, seed=0): evaluate(objective, model, batch)

Role names are free; the field's names (task, forget, retain, replay, holdout, pairs, …) are explained in the
glossary.  At step t a role hands out positions [t * size, (t + 1) * size) of an endless sequence that
is reshuffled from (seed, role, round) whenever the role has been seen once, so a shorter role cycles; a selection may
bring an order of its own, drawn from the same seed.  Roles that a term joins row by row (``pairs``) are handed out in
one order, that of the first of them.  That sequence depends on nothing else: any number of workers,
processes or accumulation steps sees the same items at step t, and a run that starts again at step t sees what it would
have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palimpsest.audit import Row
from palimpsest.pairing import leaders
from palimpsest.select import Order, Selection
from palimpsest.views import Adapter, Batch, Example

__all__ = ["Answers", "Derived", "RoleBatch", "Roles", "seeded"]

Pairs = Iterable[Sequence[str]]
"""Roles that belong together row by row, as ``[("chosen", "rejected")]``."""


def seeded(*parts: object) -> int:
    """A 63-bit number that depends on all the parts and on nothing else (not on PYTHONHASHSEED)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True)
class Answers:
    """A role paired item by item with another: the same rows with one column replaced by a drawn value.

    ``Answers("forget", "completion", refusals)`` gives each forget prompt a refusal, drawn afresh in every
    round and in the same order as the forget role, so that an objective on ("forget", "refusal") sees pairs.
    """

    to: str
    column: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"The answers to {self.to!r} are an empty list; give at least one {self.column}.")

    def row(self, row: Row, draw: int) -> Row:
        """``row`` with the answer that ``draw`` draws."""
        return {**row, self.column: self.values[draw % len(self.values)]}

    def trials(self, row: Row) -> Iterator[Row]:
        """``row`` with every answer, so that a bad one is found before training."""
        return (self.row(row, draw) for draw in range(len(self.values)))


@dataclass(frozen=True)
class Derived:
    """A role paired item by item with another: the same rows, changed by ``change(row, draw)``.

    ``Derived("task", Augment(shift=1))`` is a view of the task's rows that is drawn afresh in every round, in the same
    order as the task role.  ``change`` looks at the row and the draw and at nothing else.
    """

    to: str
    change: Callable[[Row, int], Row]

    def row(self, row: Row, draw: int) -> Row:
        """``row`` as ``draw`` changes it."""
        return self.change(row, draw)

    def trials(self, row: Row) -> Iterator[Row]:
        """``row`` changed once."""
        yield self.row(row, 0)


class RoleBatch(Mapping[str, Batch]):
    """The batches of all roles at one step, and the adapter that makes views of them."""

    def __init__(self, batches: Mapping[str, Batch], adapter: Adapter) -> None:
        self.adapter = adapter
        self._batches = dict(batches)

    def __getitem__(self, role: str) -> Batch:
        return self._batches[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def to(self, device: torch.device | str) -> RoleBatch:
        """The same batches on another device."""
        moved = {r: {k: v.to(device, non_blocking=True) for k, v in b.items()} for r, b in self.items()}
        return RoleBatch(moved, self.adapter)


class Roles(Mapping[str, Sequence[Example]]):
    """Encoded examples by role.  ``rows`` keeps what the user wrote, in the same order.

    A role is encoded when it is first used, so roles that are only measured need no columns to train on.
    Raises ``ValueError`` for an empty role, and for a row that the adapter cannot encode (naming role and row).
    """

    def __init__(
        self,
        adapter: Adapter,
        rows: Mapping[str, Sequence[Row]],
        *,
        answers: Mapping[str, Answers | Derived] | None = None,
        selections: Mapping[str, Selection] | None = None,
    ) -> None:
        self.adapter = adapter
        self.rows: dict[str, list[Row]] = {role: list(values) for role, values in rows.items()}
        self.answers: dict[str, Answers | Derived] = dict(answers or {})
        self.selections = dict(selections or {})
        for role, values in self.rows.items():
            if not values:
                raise ValueError(f"The role {role!r} has no rows; give it data or leave the role out.")
        for role, paired in self.answers.items():
            if paired.to not in self.rows:
                known = sorted(self.rows)
                raise ValueError(f"The role {role!r} is made from {paired.to!r}, which is no role; there are: {known}.")
        self._encoded: dict[str, list[Example]] = {}
        self._known: dict[int, tuple[Row, Example]] = {}  # by the id() of a row that is held
        self._orders: dict[tuple[str, str, int, int, int, Order | None], Tensor] = {}

    def __getitem__(self, role: str) -> Sequence[Example]:
        if role not in self._encoded:
            rows = self.rows[role]
            self._encoded[role] = [self._example_of(row, f"{role} row {i}") for i, row in enumerate(rows, 1)]
        return self._encoded[role]

    def _example_of(self, row: Row, place: str) -> Example:
        """Encoded once, in however many roles the row stands: each task of a stream has a role of all rows so far."""
        if id(row) not in self._known:
            self._known[id(row)] = row, self.adapter.encode(row, place)
        return self._known[id(row)][1]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.rows, *self.answers))

    def __len__(self) -> int:
        return len(self.rows) + len(self.answers)

    def __contains__(self, role: object) -> bool:
        return role in self.rows or role in self.answers

    def source(self, role: str) -> str:
        """The role that holds the rows: the role itself, or the one that it is made from."""
        return self.answers[role].to if role in self.answers else role

    def size(self, role: str) -> int:
        """Number of items that one round through the role hands out."""
        role = self.source(role)
        chosen = self.selections.get(role)
        return len(self.rows[role]) if chosen is None else chosen.length

    def in_one_order(self, pairs: Pairs) -> dict[str, str]:
        """Role -> the role in whose order ``pairs`` lets its rows be drawn, for roles with rows of their own.

        Raises ``ValueError`` where one has other rows, or a selection of others, than the role that it is joined with.
        """
        found = leaders([self.source(role) for role in joined] for joined in pairs)
        for role, first in found.items():
            if len(self.rows[role]) != len(self.rows[first]):
                raise ValueError(
                    f"{first!r} and {role!r} are joined row by row, but have {len(self.rows[first])} and"
                    f" {len(self.rows[role])} rows; give both as many."
                )
            own, other = self.selections.get(role), self.selections.get(first)
            alike = own is other if own is None or other is None else torch.equal(own.index, other.index)
            if not alike:
                raise ValueError(
                    f"{first!r} and {role!r} are joined row by row, but not the same rows of both are selected; select"
                    " the same, or take the rows out of the files."
                )
        return found

    def position(self, role: str, place: int, seed: int, pairs: Pairs = ()) -> tuple[int, int]:
        """(index of the item, round) at ``place`` of the role's endless order."""
        source = self.source(role)
        ((index, round_, _),) = self._found(role, place, 1, seed, self.in_one_order(pairs).get(source, source))
        return index, round_

    def _found(self, role: str, first: int, count: int, seed: int, leader: str) -> list[tuple[int, int, float]]:
        """(index of the item, round, weight) at ``count`` places from ``first`` on, in the order of ``leader``."""
        found: list[tuple[int, int, float]] = []
        source = self.source(role)
        size, chosen = self.size(source), self.selections.get(source)
        while len(found) < count:
            round_, offset = divmod(first + len(found), size)
            taken = self._order(source, leader, round_, seed)[offset : offset + count - len(found)]
            index = (taken if chosen is None else chosen.index[taken]).tolist()
            weight = [1.0] * len(index) if chosen is None else chosen.weight[taken].tolist()
            found += [(i, round_, w) for i, w in zip(index, weight)]
        return found

    def _order(self, role: str, leader: str, round_: int, seed: int) -> Tensor:
        """A round's order; of the selection, where there is one, which may be another in the next stage."""
        chosen = self.selections.get(role)
        order = None if chosen is None else chosen.order
        key = (role, leader, round_, self.size(role), seed, order)
        if key not in self._orders:
            generator = torch.Generator().manual_seed(seeded(seed, leader, round_))
            if len(self._orders) > 64:  # a long run must not keep the order of every round
                self._orders.clear()
            places = torch.randperm(key[3], generator=generator) if chosen is None else chosen.places(generator)
            self._orders[key] = places
        return self._orders[key]

    def examples(self, role: str, first: int, count: int, seed: int, leader: str | None = None) -> list[Example]:
        """The encoded items at ``count`` places, each with ``index``, ``weight`` and a random ``draw`` of its own.

        ``leader`` is another role in whose order they are drawn.
        """
        found = self._found(role, first, count, seed, leader or self.source(role))
        draws = [seeded(seed, role, round_, index) for index, round_, _ in found]
        encoded = [self._encoded_item(role, index, draw) for (index, _, _), draw in zip(found, draws, strict=True)]
        columns = ([index for index, _, _ in found], draws, [weight for *_, weight in found])
        own = zip(
            *(torch.tensor(column).unbind() for column in columns), strict=True
        )  # a tensor each would take longer
        return [{**e, "index": i, "draw": d, "weight": w} for e, (i, d, w) in zip(encoded, own, strict=True)]

    def _encoded_item(self, role: str, index: int, draw: int) -> Example:
        """A row of the role, or what ``draw`` makes of it."""
        if role not in self.answers:
            return self[role][index]
        paired = self.answers[role]
        return self.adapter.encode(paired.row(self.rows[paired.to][index], draw), f"{role} row {index + 1}")

    def window(
        self,
        step: int,
        size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        roles: Sequence[str] | None = None,
        pairs: Pairs = (),
    ) -> list[RoleBatch]:
        """The micro-batches of optimizer step ``step`` on one process.

        ``size`` rows of every role make one step over all processes and micro-batches together; it must
        divide evenly.  Which items a step sees does not depend on ``world`` or ``accumulation``.  ``pairs`` are the
        roles that an objective joins row by row, ``Total.pairs``.
        """
        parts = world * accumulation
        if size < 1 or size % parts:
            raise ValueError(
                f"A batch of {size} rows cannot be split evenly over {world} processes x {accumulation} accumulation "
                f"steps; choose a multiple of {parts}."
            )
        share = size // parts
        wanted = list(self if roles is None else roles)
        for role in wanted:
            self._check_block(role, size)
        order = self.in_one_order(pairs)
        batches = []
        for micro in range(accumulation):
            first = step * size + (micro * world + rank) * share
            drawn = {r: self.examples(r, first, share, seed, order.get(self.source(r))) for r in wanted}
            collated = {role: self.adapter.collate(examples) for role, examples in drawn.items()}
            batches.append(RoleBatch(collated, self.adapter))
        return batches

    def _check_block(self, role: str, size: int) -> None:
        """Whether batches of ``size`` rows are what the role's selection has an order for."""
        chosen = self.selections.get(self.source(role))
        if chosen is not None and chosen.order is not None and size % chosen.order.block:
            raise ValueError(
                f"The rows of {role!r} are ordered for batches of {chosen.order.block}, and not of {size}; "
                "choose a multiple of it."
            )

    def batches(self, size: int, *, seed: int, rank: int = 0, world: int = 1, pairs: Pairs = ()) -> Iterator[RoleBatch]:
        """An endless iterator over steps, one batch a step on this process."""
        step = 0
        while True:
            yield self.window(step, size, seed=seed, rank=rank, world=world, pairs=pairs)[0]
            step += 1

    def in_order(self, role: str, size: int) -> Iterator[RoleBatch]:
        """One pass over a role's own rows in their order, for measurements before training (Fisher, caches)."""
        for first in range(0, len(self[role]), size):
            chunk = [
                {**e, "index": torch.tensor(first + i), "draw": torch.tensor(0), "weight": torch.tensor(1.0)}
                for i, e in enumerate(self[role][first : first + size])
            ]
            yield RoleBatch({role: self.adapter.collate(chunk)}, self.adapter)
