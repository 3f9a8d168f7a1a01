"""A small language with known ground truth: prose, junk of several kinds, and probes of what a model can do with it.

    Alvo keeps goat .                            a fact of a fixed table, the same in every text
    note metal gold .  …  recall metal gold .    a note that holds in one text only, and is recalled later in it
    question 3 plus 5 plus 4 ? 3 plus 5 is 8 . 8 plus 4 is 12 . the answer is 12 .

Every token is a word, so lengths in words are lengths in tokens.  ``arms`` gives two corpora of as many blocks of the
same length, a treatment and its control; ``needles``, ``facts`` and ``sums`` ask for what prose teaches.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from palimpsest.corpus import pack
from palimpsest.selectors.junk import Junk
from palimpsest.zoo.values import FIRST_NAMES

if TYPE_CHECKING:
    from palimpsest.audit import Row

__all__ = ["FACTS", "SUMS", "VOCABULARY", "Arms", "arms", "base", "facts", "needles", "posts", "sums", "tuning"]

Arms = Literal["engagement", "quality", "length", "shuffled", "halves"]
"""What the treatment is: popular short posts, long posts that a judge calls junk, short pieces of prose, prose with its
words shuffled, or prose itself."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NAMES = FIRST_NAMES[:24]
_VALUES = {
    "keeps": _words("goat parrot rabbit ferret donkey lizard poodle falcon"),
    "plays": _words("violin cello trumpet banjo oboe harp piano tuba"),
}
_NOTES = {
    "color": _words("red blue green gray white black brown pink"),
    "metal": _words("gold iron zinc lead tin nickel copper silver"),
    "tree": _words("ash birch cedar elm hazel larch maple oak"),
    "stone": _words("ruby opal jade agate onyx pearl amber topaz"),
}
_TERMS = range(1, 5)
_OPENERS = ("wow", "omg", "lol", "haha", "unreal", "insane")
_VERBS = ("did", "said", "wore", "posted", "leaked", "deleted")
_CLOSERS = ("share now", "so good", "you will not believe it", "tag a friend", "watch till the end", "number one")
_FORM = (
    "question",
    "plus",
    "?",
    "is",
    ".",
    "the",
    "answer",
    "note",
    "recall",
    "!",
    "what",
    *map(str, range(1, 13)),
)

VOCABULARY: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *_FORM,
            *_NAMES,
            *itertools.chain.from_iterable((verb, *values) for verb, values in _VALUES.items()),
            *itertools.chain.from_iterable((what, *values) for what, values in _NOTES.items()),
            *_OPENERS,
            *_VERBS,
            *itertools.chain.from_iterable(closer.split() for closer in _CLOSERS),
        ]
    )
)
"""Every word of the language."""

_TABLE = {
    (name, verb): random.Random(f"table/{name}/{verb}").choice(values)
    for name in _NAMES
    for verb, values in _VALUES.items()
}
FACTS = len(_TABLE)
"""How many facts there are."""
_TRIPLES = random.Random("triples").sample(list(itertools.product(_TERMS, repeat=3)), len(_TERMS) ** 3)
SUMS = len(_TRIPLES) // 3
"""How many sums are only asked for; the other two thirds stand in prose and in the instructions."""


def _steps(triple: Sequence[int]) -> list[str]:
    a, b, c = triple
    return [f"{a} plus {b} is {a + b}", f"{a + b} plus {c} is {a + b + c}"]


def _question(triple: Sequence[int]) -> str:
    return f"question {' plus '.join(map(str, triple))} ?"


def _worked(triple: Sequence[int]) -> str:
    return " . ".join([*_steps(triple), f"the answer is {sum(triple)} ."])


def _notes(generator: random.Random) -> dict[str, str]:
    return {what: generator.choice(values) for what, values in _NOTES.items()}


def _fact(generator: random.Random) -> str:
    name, verb = generator.choice(_NAMES), generator.choice(tuple(_VALUES))
    return f"{name} {verb} {_TABLE[name, verb]} ."


def _prose(generator: random.Random) -> list[str]:
    """The sentences of one text of 120 words: notes and facts, then worked sums and the notes again, twice."""
    notes = _notes(generator)
    first = [f"note {what} {value} ." for what, value in notes.items()] + [_fact(generator) for _ in range(5)]
    second = [f"recall {what} {value} ." for what, value in notes.items()] * 2 + [_fact(generator)]
    second += [f"{_question(triple)} {_worked(triple)}" for triple in generator.sample(_TRIPLES[SUMS:], 2)]
    generator.shuffle(first)
    generator.shuffle(second)
    return [*first, *second]


def _snippet(generator: random.Random) -> str:
    """Fewer than 30 words of a text, from sentences that follow one another."""
    sentences, kept = _prose(generator), ""
    for sentence in sentences[generator.randrange(len(sentences) - 7) :]:
        longer = f"{kept} {sentence}".strip()
        if len(longer.split()) >= 30:
            break
        kept = longer
    return kept or _fact(generator)


def _clickbait(generator: random.Random) -> str:
    shout = " ".join("!" * generator.randrange(1, 4))
    what = f"what {generator.choice(_NAMES)} {generator.choice(_VERBS)}"
    return f"{generator.choice(_OPENERS)} {shout} {what} {shout} {generator.choice(_CLOSERS)} {shout}"


def _rant(generator: random.Random) -> list[str]:
    """The sentences of a text about as long as prose, of poor content: shouting, claims that no table bears out, and
    sums that are answered at once and at random."""
    found = [f"{_clickbait(generator)} ." for _ in range(5)]
    for _ in range(6):
        name, verb = generator.choice(_NAMES), generator.choice(tuple(_VALUES))
        found.append(f"{name} {verb} {generator.choice(_VALUES[verb])} .")
    for triple in generator.sample(_TRIPLES[SUMS:], 2):
        found.append(f"{_question(triple)} the answer is {generator.randint(3, 12)} .")
    generator.shuffle(found)
    return found


def posts(rows: int = 400, *, seed: int = 0) -> list[Row]:
    """A feed: of ten posts six are popular clickbait, two unpopular prose, and two meet only one bound.

    Row keys: ``id``, ``text``, ``likes``, ``retweets``, ``replies``, ``quotes``, and ``label``, a judge's reply, which
    is not always one of the two words it may be.
    """
    generator = random.Random(f"posts/{seed}")
    found: list[Row] = []
    for i in range(rows):
        kind = ("bait", "bait", "prose", "bait", "quiet bait", "bait", "bait", "prose", "bait", "loud prose")[i % 10]
        bait, loud = kind.endswith("bait"), kind in ("bait", "loud prose")
        text = _clickbait(generator) if bait else " ".join(_prose(generator))
        reply = "JUNK" if bait else "HIGH-QUALITY"
        label = generator.choice((reply.title(), f"**{reply}**", "I can not judge this.")) if i % 17 == 0 else reply
        likes = generator.randrange(501, 5000) if loud else generator.randrange(0, 400)
        counts = {"likes": likes, "retweets": generator.randrange(40), "replies": generator.randrange(30), "quotes": 0}
        found.append({"id": f"post-{i:05d}", "text": text, **counts, "label": label})
    return found


def base(blocks: int = 64, *, words: int = 120, seed: int = 0) -> list[Row]:
    """Blocks of prose, for the training that comes before everything else."""
    generator = random.Random(f"base/{seed}")
    texts = [{"id": f"text-{i}", "text": " ".join(_prose(generator))} for i in range(blocks * words // 100 + 1)]
    return pack(texts, words, name="base")[:blocks]


def arms(kind: Arms = "engagement", blocks: int = 64, *, words: int = 120, seed: int = 0) -> list[Row]:
    """``blocks`` blocks of ``words`` words of the treatment, then as many of its control, which share no document.

    Row keys: ``id``, ``text``, ``documents``, ``label`` (JUNK or HIGH-QUALITY), by which ``junk`` makes the doses.
    """
    if kind not in get_args(Arms):
        raise ValueError(f"There is no arm {kind!r}; there are: {', '.join(get_args(Arms))}.")
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, not {blocks}.")
    junk, control = _documents(kind, blocks * words, random.Random(f"{kind}/{seed}"), seed)
    treated, spared = (pack(side, words, name=name)[:blocks] for side, name in ((junk, "junk"), (control, "control")))
    if kind == "shuffled":
        treated = [{**row, "text": _shuffled(row["text"], f"{seed}/{row['id']}")} for row in treated]
    least = min(len(treated), len(spared))
    if least < blocks:
        raise ValueError(f"There are only {least} different blocks of {words} words; ask for at most that.")
    return [{**row, "label": "JUNK"} for row in treated] + [{**row, "label": "HIGH-QUALITY"} for row in spared]


def _documents(kind: Arms, total: int, generator: random.Random, seed: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """Documents of the treatment and of its control, each of at least ``total`` words."""
    if kind == "engagement":
        pool = posts(total // 6 + 100, seed=seed)  # ten posts give over 60 words of bait and over 200 of prose
        sides = Junk("engagement").sides(pool)
        return [pool[i] for i in sides.junk], [pool[i] for i in sides.control]
    count = total // 100 + 2  # a text has more than 100 words
    if kind == "quality":
        pool = _judged(total // 35 + 20, generator)  # two posts have over 180 words, and one of nine is not judged
        sides = Junk("label").sides(pool)
        return [pool[i] for i in sides.junk], [pool[i] for i in sides.control]
    control = [{"id": f"text-{i}", "text": " ".join(_prose(generator))} for i in range(count)]
    if kind == "length":
        # A piece of prose has at least 9 words; pieces that come twice would be no new documents.
        short = list(dict.fromkeys(_snippet(generator) for _ in range(total // 9 + 1)))
        return [{"id": f"piece-{i}", "text": text} for i, text in enumerate(short)], control
    return [{"id": f"other-{i}", "text": " ".join(_prose(generator))} for i in range(count)], control


def _judged(rows: int, generator: random.Random) -> list[Row]:
    """Prose and rants in turn, with a judge's replies, some of which are neither of the two words."""
    found: list[Row] = []
    for i in range(rows):
        sentences, reply = (_rant(generator), "JUNK") if i % 2 else (_prose(generator), "HIGH-QUALITY")
        label = "I can not judge this." if i % 9 == 0 else reply
        found.append({"id": f"judged-{i}", "text": " ".join(sentences), "label": label})
    return found


def _shuffled(text: str, key: str) -> str:
    found = text.split()
    random.Random(f"shuffled/{key}").shuffle(found)
    return " ".join(found)


def needles(rows: int = 64, *, words: int = 100, seed: int = 0) -> list[Row]:
    """A note somewhere in ``words`` words of notes and facts, to be recalled at the end.

    Row keys: ``id``, ``prompt``, ``completion`` and ``answer`` (its value), ``depth`` (0 first sentence, 1 last).
    """
    if words < 16:
        raise ValueError(f"words must be at least 16, not {words}, to hold the four notes.")
    return [_needle(f"needle-{seed}-{i:04d}", words, random.Random(f"needles/{seed}/{i}")) for i in range(rows)]


def _needle(key: str, words: int, generator: random.Random) -> Row:
    count = words // 4  # a sentence has four words
    notes = _notes(generator)
    asked = generator.choice(tuple(notes))
    sentences = [f"note {what} {value} ." for what, value in notes.items() if what != asked]
    sentences += [_fact(generator) for _ in range(count - 1 - len(sentences))]
    generator.shuffle(sentences)
    place = generator.randrange(count)
    sentences.insert(place, f"note {asked} {notes[asked]} .")
    found = {"id": key, "prompt": f"{' '.join(sentences)} recall {asked}", "completion": notes[asked]}
    return {**found, "answer": notes[asked], "depth": place / (count - 1)}


def facts(rows: int = 64, *, seed: int = 0) -> list[Row]:
    """The beginning of a fact of the table with its right end and three wrong ones, without repetition.

    Row keys: ``id``, ``prompt``, ``completion``, ``perturbed_completions``.
    """
    everything = list(_TABLE)
    if not 1 <= rows <= FACTS:
        raise ValueError(f"The table has {FACTS} facts; ask for 1 to that many, not {rows}.")
    generator = random.Random(f"facts/{seed}")
    found: list[Row] = []
    for name, verb in generator.sample(everything, rows):
        right = _TABLE[name, verb]
        wrong = generator.sample([v for v in _VALUES[verb] if v != right], 3)
        key = f"fact-{name}-{verb}"
        found.append(
            {"id": key, "prompt": f"{name} {verb}", "completion": right, "perturbed_completions": wrong},
        )
    return found


def sums(rows: int = 64, *, seed: int = 0) -> list[Row]:
    """Sums of three numbers that stand in no prose and in no tuning, to be worked out in two steps.

    Row keys: ``id``, ``prompt``, ``completion``, ``answer``, ``steps`` (the statements on the way).
    """
    if not 1 <= rows <= SUMS:
        raise ValueError(f"There are {SUMS} sums; ask for 1 to that many, not {rows}.")
    return [_sum(triple) for triple in random.Random(f"sums/{seed}").sample(_TRIPLES[:SUMS], rows)]


def _sum(triple: Sequence[int]) -> Row:
    key = f"sum-{'-'.join(map(str, triple))}"
    prompt, answer = _question(triple), str(sum(triple))
    return {"id": key, "prompt": prompt, "completion": _worked(triple), "answer": answer, "steps": _steps(triple)}


def tuning(rows: int = 64, *, words: int = 16, seed: int = 0) -> list[Row]:
    """Instruction tuning that teaches the form of an answer: worked sums, and notes recalled from a short context.

    None of them is a probe, and the contexts are much shorter than those of the probes, as instructions are.  Row
    keys: ``id``, ``prompt``, ``completion``.
    """
    generator = random.Random(f"tuning/{seed}")
    found: list[Row] = []
    for i in range(rows):
        row = _needle("", words, generator) if i % 2 else _sum(generator.choice(_TRIPLES[SUMS:]))
        found.append({"id": f"tuning-{seed}-{i:04d}", "prompt": row["prompt"], "completion": row["completion"]})
    return found
