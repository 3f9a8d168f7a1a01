"""One set of rows made of exact shares of others, for replay that costs nothing extra.

    stream = mixed({"old": old, "new": new}, {"old": 0.05, "new": 0.95}, rows=2000)

The whole multiset is composed first, and ``Roles`` shuffles it: over one round the shares are exact to within a row,
and the total does not depend on them.  How many rows of a pool stand in a batch is then hypergeometric, not binomial.
What is taken from a pool is drawn without repetition until the pool is used up, and keeps the pool's order, so that a
share of 0 leaves the other pool's rows as they were.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from palimpsest.audit import Row

__all__ = ["check_shares", "mixed", "whole_shares"]


def check_shares(shares: Mapping[str, float]) -> None:
    """Whether the shares of at least two pools lie in [0, 1] and sum to 1."""
    if len(shares) < 2:
        raise ValueError("A mix takes shares of at least two roles; name another, or use the role itself.")
    for role, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"The share of {role!r} lies in [0, 1], and is not {_shown(share)}; give a number.")
    if not math.isclose(math.fsum(shares.values()), 1, abs_tol=1e-9):
        raise ValueError(f"The shares sum to {math.fsum(shares.values()):g}; let them sum to 1.")


def _shown(value: object) -> str:
    """A value as an error shows it; Python itself refuses to print numbers of thousands of digits."""
    return "a huge number" if isinstance(value, int) and abs(value) > 10**60 else repr(value)[:60]


def whole_shares(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """``total`` split into whole numbers, each within one of its share (largest remainders first)."""
    exact = {role: total * share for role, share in shares.items()}
    found = {role: math.floor(value + 1e-9) for role, value in exact.items()}
    by_remainder = sorted(exact, key=lambda role: found[role] - exact[role])
    for role in by_remainder[: total - sum(found.values())]:
        found[role] += 1
    return found


def mixed(
    pools: Mapping[str, Sequence[Row]],
    shares: Mapping[str, float],
    *,
    rows: int | None = None,
    tokens: int | None = None,
    count: Callable[[Row], int] | None = None,
    seed: int = 0,
) -> list[Row]:
    """The rows of a mix: ``rows`` of them, or as many as hold about ``tokens`` tokens, which ``count`` counts.

    In tokens, each pool's part is as near to its share as whole rows allow.  A row that is taken again has ``#2`` (and
    so on) behind its ``id``.  With the same ``seed``, a larger share or total holds the rows of a smaller one.
    """
    check_shares(shares)
    if (rows is None) == (tokens is None):
        raise ValueError("A mix has a total of rows or of tokens; give one of the two.")
    if tokens is not None:
        if count is None:
            raise ValueError("A mix of tokens needs count, the tokens of a row; give it, or give rows.")
        chosen = {r: _until(_drawn(pools[r], r, seed), pools[r], tokens * s, count) for r, s in shares.items()}
    else:
        assert rows is not None
        numbers = whole_shares(rows, shares)
        chosen = {r: list(itertools.islice(_drawn(pools[r], r, seed), n)) for r, n in numbers.items()}
    return [_copy(pools[role][index], round_) for role, own in chosen.items() for round_, index in sorted(own)]


def _drawn(pool: Sequence[Row], role: str, seed: int) -> Iterator[tuple[int, int]]:
    """(round, index) of an endless sequence in which every round has each row once."""
    if not pool:
        raise ValueError(f"The role {role!r} has no rows to take a share of; give it data.")
    for round_ in itertools.count():
        order = random.Random(f"mix/{seed}/{role}/{round_}").sample(range(len(pool)), len(pool))
        yield from ((round_, index) for index in order)


def _until(
    drawn: Iterator[tuple[int, int]], pool: Sequence[Row], budget: float, count: Callable[[Row], int]
) -> list[tuple[int, int]]:
    """As many of ``drawn`` as come nearest to ``budget`` tokens."""
    chosen, spent = [], 0
    sizes: dict[int, int] = {}
    for round_, index in drawn:
        if index not in sizes:
            sizes[index] = count(pool[index])
        size = sizes[index]
        if size < 1:
            raise ValueError("A row without tokens cannot be counted in tokens; leave it out, or give rows.")
        if spent + size / 2 > budget:
            break
        chosen.append((round_, index))
        spent += size
    return chosen


def _copy(row: Row, round_: int) -> Row:
    """A row taken for the first time as it is, later with an ``id`` of its own."""
    return {**row, "id": f"{row['id']}#{round_ + 1}"} if round_ and "id" in row else row
