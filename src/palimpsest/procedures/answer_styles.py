"""Rewrites a share of a task's rows so that every task is asked in the same answer styles.

    rows      a task whose rows all have one style, of: yes_no, choice, short, brief, detailed
    share X   of them go over to the other styles, as many to each; the rest keeps its own
    prompt    every row's question ends with the request of its style, the same for all tasks

A model that learns one style a task unlearns the others' format, and seems to have forgotten what it still knows.  In a
recipe a role is made of another's rows; ``share: 0`` keeps them all in their own style, as for a test:

    roles: {facts: facts.jsonl, task: {rewrite: {answer_styles: {own: short, share: 0.2}}, of: facts}}

Paper: SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual Instruction Tuning (Chen et al.,
    2025), arXiv 2505.02486 (answer style diversification).
Code: jinpeng0528/SEFE (CoIN-ASD).
Tags: retain, continual-learning, data-selection, fine-tuning, language-model.
Needs: rows with ``prompt``, ``answer`` (the fact in a few words) and ``completion`` (a sentence that states it).
Differs: by rules alone, where the paper has a multimodal model write what the data do not hold. Wrong options are the
    answers of other rows (``alike`` names the column that rows must share, such as their attribute). A detailed
    answer cannot be made by a rule: the style is there for rows that have it as ``detailed``. The requests are worded
    anew. It rewrites rows and chooses none, so it is no selector.
See: ``reg_lora`` (the paper's other half).
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palimpsest.audit import Row
from palimpsest.data import row_key

__all__ = ["BY_RULE", "METHOD", "REQUESTS", "AnswerStyles", "diversified", "in_style"]

REQUESTS: Mapping[str, str] = {
    "yes_no": "Say yes or no.",
    "choice": "Name the letter of the right option.",
    "short": "Reply in a few words.",
    "brief": "Reply in one sentence.",
    "detailed": "Explain at length.",
}
"""Style -> the request that ends its prompts."""
BY_RULE = ("yes_no", "choice", "short", "brief")
"""Styles that can be made of any row with an answer and a sentence that states it."""
OPTIONS = 4
"""Options of a choice, where the data holds as many answers."""


def in_style(row: Row, style: str, wrong: Sequence[str], draw: random.Random) -> Row:
    """``row`` with a prompt and a completion in ``style``; ``wrong`` are answers that are not its own.

    A choice has up to four options in random order; a yes-or-no question is about the answer or a wrong one, with equal
    odds.  Raises ``ValueError`` for an unknown style, and for a row that lacks what the style is made from.
    """
    source = {"brief": "completion", "detailed": "detailed"}.get(style, "answer")
    for column in ("prompt", source):
        if column not in row:
            raise ValueError(f"The row {row_key(row)!r} has no {column!r}, from which the style {style} is made.")
    question, said = str(row["prompt"]), str(row[source])
    if style in ("yes_no", "choice") and not wrong:
        raise ValueError(f"There is no wrong answer for the row {row_key(row)!r}; leave the style {style} out.")
    if style == "yes_no":
        truth = draw.random() < 0.5
        question, said = f"{question} {said if truth else draw.choice(wrong)}?", "yes" if truth else "no"
    elif style == "choice":
        options = [said, *draw.sample(list(wrong), min(OPTIONS - 1, len(wrong)))]
        draw.shuffle(options)
        lettered = " ".join(f"{letter} {option}" for letter, option in zip(string.ascii_uppercase, options))
        question, said = f"{question} {lettered}", string.ascii_uppercase[options.index(said)]
    elif style not in REQUESTS:
        raise ValueError(f"There is no style {style!r}; there are: {', '.join(REQUESTS)}.")
    return {**row, "prompt": f"{question} {REQUESTS[style]}", "completion": said, "style": style}


def diversified(
    rows: Sequence[Row],
    own: str,
    others: Sequence[str],
    share: float = 0.2,
    *,
    alike: str | None = None,
    seed: int = 0,
) -> list[Row]:
    """``rows`` in their order, each in the style ``own`` but for ``share`` of them, split evenly over ``others``.

    The same rows and ``seed`` give the same result, and a row that keeps its style is the same for every ``share``.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is the part of the rows that change their style, in [0, 1], not {share}.")
    if share and (not others or own in others or len(set(others)) != len(others)):
        raise ValueError(f"Name the styles beside {own} to which rows go over, each once, not {list(others)}.")
    chosen = random.Random(f"styles/{seed}").sample(range(len(rows)), round(share * len(rows)))
    styles = {place: others[i % len(others)] for i, place in enumerate(chosen)}
    answers: dict[object, dict[str, None]] = {}
    for row in rows:
        answers.setdefault(_kind(row, alike), {})[str(row.get("answer"))] = None
    found = []
    for place, row in enumerate(rows):
        wrong = [a for a in answers[_kind(row, alike)] if a != str(row.get("answer"))]
        draw = random.Random(f"styles/{seed}/{row_key(row)}")
        found.append(in_style(row, styles.get(place, own), wrong, draw))
    return found


def _kind(row: Row, alike: str | None) -> object:
    """What rows must share so that the answer of one is a wrong option of the other."""
    if alike is not None and alike not in row:
        raise ValueError(f"The row {row_key(row)!r} has no {alike!r}; name a column that all rows have.")
    return None if alike is None else row[alike]


@dataclass(frozen=True)
class AnswerStyles:
    """The arguments of ``diversified`` beside the rows; ``others`` None are all beside ``own`` that a rule can make."""

    own: str = "short"
    others: tuple[str, ...] | None = None
    share: float = 0.2
    alike: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [style for style in (self.own, *self.styles) if style not in REQUESTS]
        if unknown:
            raise ValueError(f"There is no style {unknown[0]!r}; there are: {', '.join(REQUESTS)}.")
        diversified((), self.own, self.styles, self.share)  # which checks them

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles to which rows go over."""
        return tuple(s for s in BY_RULE if s != self.own) if self.others is None else self.others

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """``rows`` in their order, each in one of the styles."""
        return diversified(rows, self.own, self.styles, self.share, alike=self.alike, seed=self.seed)


METHOD = AnswerStyles
