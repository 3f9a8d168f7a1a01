"""Unlearns growing requests, and requests that follow one another, and audits the model after each.

    scalability       forget_1 < forget_2 < ... < forget_k, nested; each from the target model
    sustainability    forget_1, ..., forget_k, disjoint; each from the model that the one before left behind

    chosen strength = the first whose curve is at or below the retrained model's value, else the last

How a model is unlearned and what is measured are functions of the caller; here stands only what must not be mixed up:
which rows a request holds, and which model it starts from.

Paper: MUSE: Machine Unlearning Six-Way Evaluation for Language Models (Shi et al., 2024), arXiv 2407.06460, criteria C5
    and C6 and the rule for choosing a checkpoint.
Code: jaechan-repo/muse_bench.
Tags: unlearning, benchmark, language-model.
Needs: a function that unlearns rows from a model and returns the model, and one that measures a model.
Differs: the folds are cut in the order of the rows, their sizes differing by at most one; the released ones are fixed
    files. Nesting and disjointness are checked by the rows' ids before anything is trained.
See: ``knowledge_memorization`` (the curve that the rule looks at, and the utility that both criteria report).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from torch import nn

from palimpsest.audit import Row
from palimpsest.data import row_key

__all__ = [
    "METHOD",
    "check_disjoint",
    "check_nested",
    "disjoint_folds",
    "first_reaching",
    "nested_folds",
    "scalability",
    "sustainability",
]

Audited = TypeVar("Audited")
Unlearn = Callable[[nn.Module, Sequence[Row]], nn.Module]
"""(a model that may be changed, rows to forget) -> the unlearned model."""


def disjoint_folds(rows: Sequence[Row], folds: int) -> list[list[Row]]:
    """``rows`` in their order as ``folds`` requests that share none, their sizes differing by at most one."""
    if not 1 <= folds <= len(rows):
        raise ValueError(f"{len(rows)} rows cannot make {folds} requests; take 1 to {len(rows)}.")
    cuts = [len(rows) * i // folds for i in range(folds + 1)]
    found = [list(rows[first:end]) for first, end in pairwise(cuts)]
    check_disjoint(found)
    return found


def nested_folds(rows: Sequence[Row], folds: int) -> list[list[Row]]:
    """``folds`` requests, each of which holds the one before it; the last holds all ``rows``."""
    parts = disjoint_folds(rows, folds)
    found = [[row for part in parts[: i + 1] for row in part] for i in range(folds)]
    check_nested(found)
    return found


def check_disjoint(folds: Sequence[Sequence[Row]]) -> None:
    """Raises ``ValueError`` for a row that stands in two requests, or twice in one."""
    seen: dict[str, int] = {}
    for number, fold in enumerate(folds, 1):
        for row in fold:
            key = row_key(row)
            if key in seen:
                where = "twice in" if seen[key] == number else f"in request {seen[key]} and in"
                raise ValueError(f"The row {key!r} stands {where} request {number}; successive requests share no row.")
            seen[key] = number


def check_nested(folds: Sequence[Sequence[Row]]) -> None:
    """Raises ``ValueError`` for a request that lacks a row of the one before it, or does not grow."""
    before: set[str] = set()
    for number, fold in enumerate(folds, 1):
        keys = {row_key(row) for row in fold}
        lost = before - keys
        if lost:
            raise ValueError(
                f"Request {number} lacks the row {min(lost)!r} of the one before it; growing requests are nested."
            )
        if len(keys) == len(before):
            raise ValueError(f"Request {number} is no larger than the one before it; growing requests grow.")
        before = keys


def first_reaching(curve: Sequence[float], target: float) -> int:
    """The place (0 the first) of the first value of ``curve`` at or below ``target``; the last one's where none is."""
    if not len(curve):
        raise ValueError("There is no checkpoint to choose from; measure at least one.")
    return next((i for i, value in enumerate(curve) if value <= target), len(curve) - 1)


def scalability(
    model: nn.Module, folds: Sequence[Sequence[Row]], unlearn: Unlearn, audit: Callable[[nn.Module], Audited]
) -> list[Audited]:
    """What ``audit`` says after each of the nested ``folds``, every one unlearned from a copy of ``model`` itself."""
    check_nested(folds)
    return [audit(unlearn(copy.deepcopy(model), fold)) for fold in folds]


def sustainability(
    model: nn.Module, folds: Sequence[Sequence[Row]], unlearn: Unlearn, audit: Callable[[nn.Module], Audited]
) -> list[Audited]:
    """What ``audit`` says after each of the disjoint ``folds``, each unlearned from what the one before left behind.

    The first starts from a copy of ``model``, which is left alone.
    """
    check_disjoint(folds)
    found, current = [], copy.deepcopy(model)
    for fold in folds:
        current = unlearn(current, fold)
        found.append(audit(current))
    return found


METHOD = sustainability
