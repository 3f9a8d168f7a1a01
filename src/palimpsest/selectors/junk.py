"""Takes a dose of junk and fills up with control text, so that models trained on different doses can be compared.

    engagement (M1):  junk if popularity > 500 and length < 30,    control if popularity <= 500 and length > 100
    label (M2):       junk if the label is JUNK,                   control if it is HIGH-QUALITY
    popularity, length: one half of M1 alone
    dose d of T tokens:  junk in a seeded order up to d T tokens, control up to T tokens together

With one seed the junk of a smaller dose is part of that of a larger one.  Repeated texts are left out.  Documents that
are packed to blocks of equal length first (``corpus.pack``) match in optimizer steps as well as in tokens.

Paper: LLMs Can Get "Brain Rot"! (Xing, Hong, Wang et al., 2025), arXiv 2510.13928.
Code: llm-brain-rot/llm-brain-rot (datasets/preprocess/M1, datasets/preprocess/M2).
Tags: data-selection, pre-training, language-model.
Needs: the column text; popularity (or likes, retweets, replies, quotes) or label; a token counter, else words count.
Differs: the released M1 script looks at length alone, counts the begin token too (so 100 tokens are control) and stops
    at numbers of documents; its M2 script takes every label that is not exactly JUNK for control, and passes its cap
    by a document. Here both bounds are strict, a label that is neither word is dropped (``sides(...).unread``), and
    a dose never passes its tokens. No language is filtered: the released test lets through whatever is ASCII.
See: ``dose_sweep`` (what is checked before the models are trained), ``corpus``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from palimpsest.audit import Row, row_name
from palimpsest.corpus import Count, unique, words
from palimpsest.roles import seeded
from palimpsest.select import Selection

__all__ = ["METHOD", "Junk", "Rule", "Sides", "judged", "popularity", "take"]

Rule = Literal["engagement", "label", "popularity", "length"]
SIGNALS = ("likes", "retweets", "replies", "quotes")
"""What popularity is the sum of."""
LABELS: Mapping[str, int] = {"JUNK": 1, "HIGH-QUALITY": -1}
"""The two words that a judge may say, and the side that they stand for."""


def popularity(row: Row, place: str = "a row") -> int:
    """The column ``popularity``, else the sum of likes, retweets, replies and quotes as far as they are there."""
    found = [row["popularity"]] if "popularity" in row else [row[name] for name in SIGNALS if name in row]
    if not found:
        raise ValueError(f"junk: {place} has neither popularity nor any of {', '.join(SIGNALS)}; add one of them.")
    return sum(int(value) for value in found)


def judged(label: object) -> int | None:
    """1 for JUNK, -1 for HIGH-QUALITY, None for anything else, as another case, markup or a refusal."""
    return LABELS.get(label.strip()) if isinstance(label, str) else None


@dataclass(frozen=True)
class Sides:
    """Places of rows: ``junk`` and ``control``, ``repeated`` texts, ``unread`` labels; the rest is on no side."""

    junk: tuple[int, ...]
    control: tuple[int, ...]
    repeated: tuple[int, ...]
    unread: tuple[int, ...]


def take(sizes: Sequence[int], tokens: float) -> int:
    """How many of the first documents fit into ``tokens``, up to the first that does not."""
    left, taken = tokens, 0
    for size in sizes:
        left -= size
        if left < 0:
            break
        taken += 1
    return taken


@dataclass(frozen=True)
class Junk:
    """``dose`` is the share of junk, by tokens; ``tokens`` the length of every dose (the smaller side's by default).

    ``popular``, ``short`` and ``long`` are the bounds of M1, ``count`` the token counter, ``seed`` draws the order.
    """

    by: Rule = "engagement"
    dose: float = 1.0
    tokens: int | None = None
    popular: int = 500
    short: int = 30
    long: int = 100
    seed: int = 0
    count: Count = words

    def __post_init__(self) -> None:
        if not 0 <= self.dose <= 1:
            raise ValueError(f"dose is a share in [0, 1], not {self.dose}.")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, not {self.tokens}.")
        if self.short > self.long + 1:
            raise ValueError(
                f"short {self.short} and long {self.long} would put a document on both sides; lower short."
            )

    def side(self, row: Row, place: str = "a row") -> int | None:
        """1 junk, -1 control, 0 neither; None where the label cannot be read."""
        if self.by == "label":
            return judged(row.get("label"))
        verdicts = []
        if self.by in ("engagement", "popularity"):
            verdicts.append(1 if popularity(row, place) > self.popular else -1)
        if self.by in ("engagement", "length"):
            length = self.count(str(row["text"]))
            verdicts.append(1 if length < self.short else -1 if length > self.long else 0)
        return verdicts[0] if len(set(verdicts)) == 1 else 0

    def sides(self, data: Sequence[Row]) -> Sides:
        """Which rows are junk and which control, and which had to be left out."""
        for number, row in enumerate(data, 1):
            if not str(row.get("text", "")).strip():
                raise ValueError(f"junk: the row {row_name(row, number)} has no text; fill it or leave the row out.")
        kept = set(unique(data))
        found: dict[int | None, list[int]] = {1: [], -1: [], 0: [], None: []}
        for place, row in enumerate(data):
            if place in kept:
                found[self.side(row, f"the row {row_name(row, place + 1)}")].append(place)
        repeated = tuple(i for i in range(len(data)) if i not in kept)
        return Sides(tuple(found[1]), tuple(found[-1]), repeated, tuple(found[None]))

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """The rows of the dose, junk first; the score of a row is 1 (junk), -1 (control) or 0 (left out)."""
        sides = self.sides(data)
        sizes = {i: self.count(str(data[i]["text"])) for i in (*sides.junk, *sides.control)}
        junk, control = (self._drawn(side, name) for side, name in ((sides.junk, "junk"), (sides.control, "control")))
        total = self._total(sizes, junk, control)
        chosen = junk[: take([sizes[i] for i in junk], self.dose * total + 1e-6)]  # a tenth of 10 is 1, not 0.999
        left = total - sum(sizes[i] for i in chosen)
        fill = [] if self.dose == 1 else control[: take([sizes[i] for i in control], left)]
        index = torch.tensor([*chosen, *fill], dtype=torch.int64)
        score = torch.zeros(len(data))
        score[list(sides.junk)], score[list(sides.control)] = 1.0, -1.0
        return Selection(index, torch.ones(len(index)), score)

    def _drawn(self, side: Sequence[int], name: str) -> list[int]:
        """The places of one side in the order in which every dose takes them."""
        generator = torch.Generator().manual_seed(seeded("junk", name, self.seed))
        order: Tensor = torch.randperm(len(side), generator=generator)
        return [side[i] for i in order.tolist()]

    def _total(self, sizes: Mapping[int, int], junk: Sequence[int], control: Sequence[int]) -> int:
        """The tokens of every dose, which both sides must be able to give alone."""
        there = {"junk": sum(sizes[i] for i in junk), "control": sum(sizes[i] for i in control)}
        for name, tokens in there.items():
            if tokens < (self.tokens or 1):
                raise ValueError(
                    f"The {name} side has {tokens} tokens, but a dose needs {self.tokens or 1}; give it more rows or"
                    " lower tokens."
                )
        return self.tokens if self.tokens is not None else min(there.values())


METHOD = Junk
