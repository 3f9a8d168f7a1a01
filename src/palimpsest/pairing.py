"""Roles whose rows belong together, because a term joins row i of one with row i of the others (DPO's two answers)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from palimpsest.audit import Row

if TYPE_CHECKING:
    from palimpsest.objective import Term, Total
    from palimpsest.roles import Answers, Derived

__all__ = ["check_pairs", "leaders"]


def leaders(pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    """Role -> the role in whose order it is drawn: the first one named of all that hang together."""
    found: dict[str, str] = {}
    for roles in pairs:
        for role in roles:
            found.setdefault(role, role)
        joined = {found[role] for role in roles}
        first = next(role for role in found if role in joined)
        found |= {role: first for role, leader in found.items() if leader in joined}
    return found


def check_pairs(total: Total, rows: Mapping[str, Sequence[Row]], answers: Mapping[str, Answers | Derived]) -> None:
    """Whether the roles that a term joins have as many rows, and their answers the same prompts, row by row.

    A role that is made from another has that one's rows.  Raises ``ValueError``, which names the roles and the row.
    """
    for term in (t for t in total.terms if t.joins):
        first, *others = ((role, answers[role].to if role in answers else role) for role in term.role)
        for role, source in others:
            if source == first[1]:
                continue
            _check_lengths(term, first[0], role, len(rows[first[1]]), len(rows[source]))
            if term.objective.pairs == "answers":
                asked = ([_asked(_row(r, row, answers)) for row in rows[s]] for r, s in (first, (role, source)))
                _check_prompts(term, first[0], role, *asked)


def _check_lengths(term: Term, first: str, role: str, own: int, other: int) -> None:
    if own != other:
        raise ValueError(
            f"{term.method} joins row i of {first!r} with row i of {role!r}, but they have {own} and {other} rows; give"
            " both the same prompts in the same order, best as two columns of one file."
        )


def _check_prompts(term: Term, first: str, role: str, own: Sequence[object], others: Sequence[object]) -> None:
    for number, (asked, again) in enumerate(zip(own, others, strict=True), 1):
        if asked is not None and again is not None and asked != again:
            raise ValueError(
                f"{term.method} joins row i of {first!r} with row i of {role!r}, but their rows {number} answer"
                f" different prompts, {_short(asked)} and {_short(again)}; give both the same prompts in the same"
                " order, best as two columns of one file."
            )


def _row(role: str, row: Row, answers: Mapping[str, Answers | Derived]) -> Row:
    """The row itself, or what a role that is made from it makes of it at one draw."""
    return answers[role].row(row, 0) if role in answers else row


def _asked(row: Row) -> object:
    """What the row's answer answers: its prompt, or all messages but the last; None for a row without either."""
    if "messages" in row:
        found = row["messages"]
        return list(found[:-1]) if isinstance(found, Sequence) and not isinstance(found, str) else None
    return row.get("prompt")


def _short(asked: object) -> str:
    text = asked if isinstance(asked, str) else str(asked)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
