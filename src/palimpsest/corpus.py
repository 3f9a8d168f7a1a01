"""Texts as a corpus: duplicates, blocks of equal length, and how varied the texts are.

What is compared as a treatment must be equal in everything else.  ``unique`` drops repeated texts, ``pack`` joins
texts to blocks of the same number of tokens, so that two corpora of as many blocks take as many optimizer steps, and
``diversity`` and ``contaminated`` measure what packing cannot make equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from palimpsest.audit import Row
from palimpsest.data import row_key

__all__ = ["Count", "Diversity", "contaminated", "diversity", "documents", "normalized", "pack", "unique", "words"]

Count = Callable[[str], int]
"""How many tokens a text has, without begin and end."""


def words(text: str) -> int:
    """Runs of characters between spaces: the count for which no tokenizer is needed."""
    return len(text.split())


def normalized(text: str) -> str:
    """``text`` without case, punctuation and spacing; a text of signs alone stays as it is."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


def unique(rows: Sequence[Row]) -> list[int]:
    """The places of the rows whose text no earlier row has, ``normalized``."""
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(normalized(str(row["text"])), place)
    return sorted(first.values())


def documents(row: Row) -> tuple[str, ...]:
    """What a row is made of: the documents in a packed row, or the row itself."""
    return tuple(row["documents"]) if "documents" in row else (row_key(row),)


def pack(rows: Sequence[Row], length: int, count: Count = words, *, name: str = "block") -> list[Row]:
    """Texts joined in their order and cut to blocks of ``length`` tokens; what is left over is dropped.

    A cut falls between two words, and the next block goes on with the rest of the text.  Words are counted one by one,
    each with the space before it, which is exact for tokenizers that split at spaces first; a block is short of
    ``length`` by less than its next word.  Rows: ``id``, ``text``, ``documents`` (the keys of the texts in it).
    """
    if length < 1:
        raise ValueError(f"A block has at least 1 token, not {length}; raise the length.")
    blocks: list[Row] = []
    held: list[str] = []
    sources: dict[str, None] = {}
    filled = 0
    for key, word in _stream(rows):
        size = count(f" {word}")
        if size > length:
            raise ValueError(f"The word {word[:40]!r} of {key!r} alone has {size} tokens; raise the length to that.")
        if filled + size > length:
            blocks.append(_block(name, len(blocks), held, sources))
            held, sources, filled = [], {}, 0
        held.append(word)
        sources[key] = None
        filled += size
    if filled == length:
        blocks.append(_block(name, len(blocks), held, sources))
    return blocks


def _stream(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Every word with the key of its text."""
    for row in rows:
        key = row_key(row)
        for word in str(row["text"]).split():
            yield key, word


def _block(name: str, number: int, held: Sequence[str], sources: Iterable[str]) -> Row:
    return {"id": f"{name}-{number:05d}", "text": " ".join(held), "documents": list(sources)}


@dataclass(frozen=True)
class Diversity:
    """Different words, pairs and triples of words as shares of all of them, each in (0, 1].

    All three fall as a corpus grows, so only corpora of the same length can be compared.
    """

    words: int
    type_token_ratio: float
    distinct_pairs: float
    distinct_triples: float


def diversity(texts: Iterable[str]) -> Diversity:
    """How varied ``texts`` are; no pair or triple reaches from one text into the next."""
    split = [text.casefold().split() for text in texts]
    total = sum(map(len, split))
    if not total:
        raise ValueError("The diversity of no words is not defined; give at least one text.")
    shares = []
    for n in (1, 2, 3):
        grams = [gram for own in split for gram in _grams(own, n)]
        shares.append(len(set(grams)) / len(grams) if grams else 1.0)
    return Diversity(total, *shares)


def _grams(own: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(own[i:] for i in range(n)))


def contaminated(texts: Iterable[str], probes: Sequence[str], n: int = 8) -> float:
    """The share of ``probes`` of which some ``n`` words in a row also stand in ``texts``.

    A probe of fewer words counts when a text holds all of it.
    """
    if not probes:
        raise ValueError("There is no probe to look for; give at least one.")
    wanted = [normalized(probe).split() for probe in probes]
    split = [normalized(text).split() for text in texts]
    found: dict[int, set[tuple[str, ...]]] = {}
    for length in {min(n, len(probe)) for probe in wanted}:
        found[length] = {gram for own in split for gram in _grams(own, length)}
    hits = [any(gram in found[min(n, len(p))] for gram in _grams(p, min(n, len(p)))) for p in wanted if p]
    return sum(hits) / len(probes)
