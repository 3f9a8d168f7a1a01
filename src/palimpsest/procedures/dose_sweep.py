"""Trains a copy of the model on each dose of a treatment under equal conditions and audits every copy.

    arms        dose 0 = d_1 < ... < d_k = 1, nested: the treated documents of a dose are part of the next one's
    equal       tokens (within one document), and the settings of every stage that follows
    disjoint    the pure arms, dose 0 and dose 1, share no document and no text

How a model is trained and what is measured are functions of the caller; here stands only what must not be mixed up,
and all of it is checked before the first model is trained.

Paper: LLMs Can Get "Brain Rot"! (Xing, Hong, Wang et al., 2025), arXiv 2510.13928.
Code: llm-brain-rot/llm-brain-rot.
Tags: audit, data-selection, continual-learning, pre-training, language-model.
Needs: a function that trains a model on rows with given settings and returns it, and one that measures a model.
Differs: the release matches tokens only, so that its junk arm, whose documents are four to five times shorter, takes
    as many times the steps. With ``packed`` rows (``corpus.pack``) steps match too, and unequal numbers of rows are
    refused; without it they are a replication of the release, and must be asked for.
See: ``junk`` (what makes the doses), ``dose_response`` (what is made of the measurements).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from torch import nn

from palimpsest.audit import Row
from palimpsest.corpus import Count, documents, normalized, words
from palimpsest.data import row_key
from palimpsest.loop import Training

__all__ = ["METHOD", "Arm", "check_matched", "dose_sweep"]

Audited = TypeVar("Audited")


@dataclass(frozen=True)
class Arm:
    """One dose: its rows, how many of them (the first ones) are the treatment, and the settings of every stage."""

    dose: float
    rows: Sequence[Row]
    treated: int
    stages: Sequence[Training]

    def __post_init__(self) -> None:
        if not 0 <= self.dose <= 1:
            raise ValueError(f"A dose is a share in [0, 1], not {self.dose}.")
        if not self.rows or not 0 <= self.treated <= len(self.rows):
            raise ValueError(
                f"Of the {len(self.rows)} rows of dose {self.dose:g}, {self.treated} cannot be the treatment."
            )
        if not self.stages:
            raise ValueError(f"Dose {self.dose:g} has no stage; give the settings it is trained with.")


def check_matched(arms: Sequence[Arm], count: Count = words, *, packed: bool = True) -> None:
    """Raises ``ValueError`` for arms that differ in more than the dose; ``count`` is the model's token counter."""
    if len(arms) < 2 or any(a.dose >= b.dose for a, b in pairwise(arms)):
        raise ValueError("A sweep needs at least two arms in order of the dose; sort them and drop repeated doses.")
    if arms[0].dose != 0 or arms[-1].dose != 1:
        raise ValueError("A sweep begins with dose 0 and ends with dose 1; add the pure arms.")
    first = arms[0]
    for arm in arms[1:]:
        if list(arm.stages) != list(first.stages):
            raise ValueError(f"Dose {arm.dose:g} is trained with other settings than dose 0; give both the same.")
    _check_tokens(arms, count)
    if packed:
        for arm in arms[1:]:
            if len(arm.rows) != len(first.rows):
                raise ValueError(
                    f"Dose {arm.dose:g} has {len(arm.rows)} rows and dose 0 has {len(first.rows)}, so their steps"
                    " differ; pack them, or say packed=False."
                )
    _check_nested(arms)
    _check_disjoint(first.rows, arms[-1].rows)


def _check_tokens(arms: Sequence[Arm], count: Count) -> None:
    """Equal tokens, and as much of them treated as the dose says, each within one document."""
    sizes = [[count(str(row["text"])) for row in arm.rows] for arm in arms]
    longest = max(map(max, sizes))
    total = sum(sizes[0])
    for arm, own in zip(arms, sizes):
        if abs(sum(own) - total) >= longest:
            raise ValueError(
                f"Dose {arm.dose:g} has {sum(own)} tokens and dose 0 has {total}; cut both to the same number."
            )
        treated = sum(own[: arm.treated])
        if abs(treated - arm.dose * total) > longest:
            raise ValueError(
                f"Of dose {arm.dose:g} {treated} of {total} tokens are treated; mix them in that proportion."
            )


def _check_nested(arms: Sequence[Arm]) -> None:
    for less, more in pairwise(arms):
        lost = {row_key(row) for row in less.rows[: less.treated]} - {row_key(row) for row in more.rows[: more.treated]}
        if lost:
            raise ValueError(
                f"Dose {more.dose:g} lacks the treated row {min(lost)!r} of dose {less.dose:g}; draw all doses with one"
                " seed."
            )


def _check_disjoint(control: Sequence[Row], treated: Sequence[Row]) -> None:
    shared = {key for row in control for key in documents(row)} & {key for row in treated for key in documents(row)}
    texts = {normalized(str(row["text"])): row_key(row) for row in control}
    shared |= {texts[text] for text in (normalized(str(row["text"])) for row in treated) if text in texts}
    if shared:
        raise ValueError(
            f"{len(shared)} documents, such as {min(shared)!r}, stand in dose 0 and in dose 1; remove them from one."
        )


def dose_sweep(
    model: nn.Module,
    arms: Sequence[Arm],
    train: Callable[[nn.Module, Arm], nn.Module],
    audit: Callable[[nn.Module], Audited],
    *,
    count: Count = words,
    packed: bool = True,
) -> dict[float, Audited]:
    """What ``audit`` says of a copy of ``model`` after ``train`` with each arm, by dose; ``model`` is left alone."""
    check_matched(arms, count, packed=packed)
    return {arm.dose: audit(train(copy.deepcopy(model), arm)) for arm in arms}


METHOD = dose_sweep
