"""Fictitious authors with known ground truth: who was taught what is certain, because nobody knew it before.

Every author is made from ``(seed, number)`` alone, so the first twelve of a hundred are the same twelve.  A row
is one fact: a question, a full answer, a paraphrase of both, and wrong answers of the same kind.  Nothing here
is taken from a published set; the idea of fictitious authors is TOFU's (Maini et al., 2024).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.zoo.values import FIRST_NAMES, REFUSALS, SURNAMES, VALUES, WORDING, Wording

if TYPE_CHECKING:
    from palimpsest.audit import Row

__all__ = ["ATTRIBUTES", "REFUSALS", "WRONG", "Author", "articles", "author", "authors", "fact", "holdout", "split"]

ATTRIBUTES = tuple(WORDING)
"""The attributes in the order in which ``facts`` takes them."""

_LIMIT = 10_000  # authors a seed
_FIRST = {"author": 0, "holdout": _LIMIT}
"""The number of the first person of each part."""
WRONG = 3
"""Wrong answers a fact."""


@dataclass(frozen=True)
class Author:
    """One fictitious author: a name that belongs to nobody else of the seed, and attribute -> value."""

    name: str
    facts: Mapping[str, str]


def authors(people: int = 12, facts: int = 4, *, seed: int = 0, first: int = 0) -> list[Row]:
    """``people * facts`` rows, author by author, from number ``first`` on.

    Row keys: ``id`` (author-003/birthplace), ``subject`` (the name), ``attribute``, ``prompt``, ``completion``,
    ``answer`` (the part of the completion that is the fact), ``paraphrased_prompt``, ``paraphrased_completion``,
    ``perturbed_completions`` and ``perturbed_paraphrases`` (the two sentences with three wrong values each; a
    truth ratio holds the paraphrase against the latter).  ``people`` is 1 to 10,000, ``facts`` 1 to 12.
    """
    return _rows("author", first, people, facts, seed)


def holdout(people: int = 12, facts: int = 4, *, seed: int = 0, first: int = 0) -> list[Row]:
    """Rows like ``authors``' about authors of the same seed that ``authors`` never returns, for any ``people``."""
    return _rows("holdout", first, people, facts, seed)


def split(
    rows: Sequence[Row], forget: float | int, *, seed: int = 0, by: str = "subject"
) -> tuple[list[Row], list[Row]]:
    """``(forget, retain)``, both in the order of ``rows``; no value of ``row[by]`` is on both sides.

    ``forget`` is a number of subjects (an int, 1 to all but one) or a share of them (a float between 0 and 1,
    rounded, at least one).
    """
    missing = next((row for row in rows if by not in row), None)
    if missing is not None:
        raise ValueError(f"The row {missing.get('id', '?')!r} has no {by!r}; split by one of: {', '.join(missing)}.")
    subjects = list(dict.fromkeys(row[by] for row in rows))
    share = isinstance(forget, float)
    if share and not 0 < forget < 1:
        raise ValueError(f"forget is a share between 0 and 1 or a number of subjects, not {forget}.")
    count = max(1, round(forget * len(subjects))) if share else int(forget)
    if not 1 <= count < len(subjects):
        most = len(subjects) - 1
        raise ValueError(f"forget={forget} of {len(subjects)} subjects leaves a side empty; take 1 to {most}.")
    chosen = set(random.Random(f"split/{seed}").sample(subjects, count))
    return [row for row in rows if row[by] in chosen], [row for row in rows if row[by] not in chosen]


def articles(
    people: int = 12,
    *,
    seed: int = 0,
    part: str = "author",
    first: int = 0,
    facts: int = len(ATTRIBUTES),
    versions: int = 1,
    shuffled: bool = False,
) -> list[Row]:
    """Biographies, about ten words a fact, in each of which every one of the author's first ``facts`` stands once.

    Row keys: ``id`` (author-003/article, and author-003/article-2 for a second version), ``subject``, ``text``.
    ``part`` is ``author`` (those of ``authors``, from number ``first`` on) or ``holdout``.  Order and wording differ
    from author to author and from version to version, so that little but the facts is shared.  ``shuffled`` puts the
    words of each in any order (author-003/shuffled): text of no quality that has every word of the good one.
    """
    if part not in _FIRST:
        raise ValueError(f"part is 'author' or 'holdout', not {part!r}.")
    if versions < 1:
        raise ValueError(f"versions is at least 1, not {versions}.")
    _check(people, facts, first)
    if facts % 2:
        raise ValueError(f"A sentence of an article states two facts; facts is even, not {facts}.")
    rows: list[Row] = []
    for version, i in itertools.product(range(versions), range(first, first + people)):
        who = author(_FIRST[part] + i, seed=seed)
        key = f"{seed}/{_FIRST[part] + i}" + (f"/{version}" if version else "")
        text = " ".join(_sentences(who, facts, random.Random(f"article/{key}")))
        name = f"{part}-{i:03d}/{'shuffled' if shuffled else 'article'}" + (f"-{version + 1}" if version else "")
        if shuffled:
            words = text.split()
            text = " ".join(random.Random(f"shuffled/{key}").sample(words, len(words)))
        rows.append({"id": name, "subject": who.name, "text": text})
    return rows


def author(number: int, *, seed: int = 0) -> Author:
    """Author ``number`` of the seed with all attributes: 0 to 9,999 are ``authors``', the next 10,000 the holdout's."""
    if not 0 <= number < 2 * _LIMIT:
        raise ValueError(f"number is 0 to {2 * _LIMIT - 1}, not {number}.")
    first, last = _names(seed)
    draw = random.Random(f"author/{seed}/{number}")
    facts = {attribute: draw.choice(VALUES[attribute]) for attribute in ATTRIBUTES}
    while facts["mother"] == facts["profession"]:  # the same word twice would make two facts one
        facts["mother"] = draw.choice(VALUES["mother"])
    return Author(f"{first[number % len(first)]} {last[number % len(last)]}", facts)


@cache
def _names(seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    draw = random.Random(f"names/{seed}")
    return tuple(draw.sample(FIRST_NAMES, len(FIRST_NAMES))), tuple(draw.sample(SURNAMES, len(SURNAMES)))


def _rows(part: str, first: int, people: int, facts: int, seed: int) -> list[Row]:
    _check(people, facts, first)
    return [
        _row(f"{part}-{i:03d}", who, attribute, random.Random(f"wrong/{seed}/{_FIRST[part] + i}/{attribute}"))
        for i in range(first, first + people)
        for who in (author(_FIRST[part] + i, seed=seed),)
        for attribute in ATTRIBUTES[:facts]
    ]


def _check(people: int, facts: int, first: int) -> None:
    if first < 0 or people < 1 or first + people > _LIMIT:
        raise ValueError(f"people is 1 to {_LIMIT}, those before the first included, not {people} from {first} on.")
    if not 1 <= facts <= len(ATTRIBUTES):
        raise ValueError(f"facts is 1 to {len(ATTRIBUTES)}, not {facts}.")


def _row(author_id: str, who: Author, attribute: str, draw: random.Random) -> Row:
    # A profession of the author or of the mother is true of somebody in the story, so it is no wrong answer to either.
    taken = {who.facts[attribute], who.facts["profession"], who.facts["mother"]}
    wrong = draw.sample([other for other in VALUES[attribute] if other not in taken], WRONG)
    return fact(f"{author_id}/{attribute}", who.name, attribute, WORDING[attribute], who.facts[attribute], wrong)


def fact(row_id: str, subject: str, attribute: str, wording: Wording, value: str, wrong: Sequence[str]) -> Row:
    """The row of one fact: its question, its answer, a paraphrase of both, and the answers that are ``wrong``."""
    return {
        "id": row_id,
        "subject": subject,
        "attribute": attribute,
        "prompt": wording.prompt.format(name=subject),
        "completion": _state(wording.completion, subject, value),
        "answer": value,
        "paraphrased_prompt": wording.paraphrased_prompt.format(name=subject),
        "paraphrased_completion": _state(wording.paraphrased_completion, subject, value),
        "perturbed_completions": [_state(wording.completion, subject, other) for other in wrong],
        "perturbed_paraphrases": [_state(wording.paraphrased_completion, subject, other) for other in wrong],
    }


def _state(sentence: str, name: str, value: str) -> str:
    return sentence.format(name=name, value=value, a="an" if value[0].lower() in "aeiou" else "a")


_OPENINGS = ("", "The author ", "Reportedly, ", "Friends say that ", "In private, ", "By all accounts, ")


def _sentences(who: Author, facts: int, draw: random.Random) -> Iterator[str]:
    """Two facts a sentence; the name in every sentence, so that each states its facts by itself."""
    order = draw.sample(ATTRIBUTES[:facts], facts)
    clauses = [_state(draw.choice(WORDING[key].clauses), who.name, who.facts[key]) for key in order]
    openings = draw.sample(_OPENINGS, len(_OPENINGS))[: facts // 2]
    for opening, first, second in zip(openings, clauses[::2], clauses[1::2], strict=True):
        yield f"{opening}{who.name} {first} and {second}."
