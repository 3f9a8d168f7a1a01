"""General text, general knowledge and digits."""

from __future__ import annotations

import re

import pytest
import torch

from palimpsest.audit import Row
from palimpsest.zoo import load
from palimpsest.zoo.digits import digits
from palimpsest.zoo.knowledge import KNOWLEDGE
from palimpsest.zoo.text import corpus, general_text, instructions

EVERY_INSTRUCTION = instructions(230)


def test_passages_are_unique_prose_of_the_asked_length() -> None:
    rows = general_text(500, words=60)
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == 500
    for row in rows:
        text = row["text"]
        assert 36 <= len(text.split()) <= 60
        assert re.match(r"[A-Z]", text) and text[-1] in ".!?" and "\n" not in text and "  " not in text
        assert sum(c.isalpha() or c == " " for c in text) > 0.75 * len(text)
        assert ">>>" not in text and "::=" not in text


def test_passages_are_prefix_stable_and_seeded() -> None:
    assert general_text(10, seed=1) == general_text(40, seed=1)[:10]
    assert general_text(10, seed=1) != general_text(10, seed=2)


def test_two_parts_share_no_source() -> None:
    def sources(rows: list[Row]) -> set[str]:
        return {row["id"].rpartition("/")[0] for row in rows}

    train, test = (general_text(150, part=part) for part in ("train", "test"))
    assert not sources(train) & sources(test) and load({"zoo": "general_text", "rows": 150, "part": "test"}) == test


def test_the_language_reference_and_the_zen_are_among_them() -> None:
    rows = {row["id"]: row["text"] for row in general_text(900)}
    assert any(row_id.startswith("topics.") for row_id in rows)
    zen = [text for row_id, text in rows.items() if row_id.startswith("this/")]
    assert not zen or zen[0].startswith("Beautiful is better than ugly. Explicit is better than implicit.")


@pytest.mark.parametrize(("rows", "words"), [(0, 60), (10**6, 60), (4, 5)])
def test_general_text_says_what_there_is(rows: int, words: int) -> None:
    with pytest.raises(ValueError, match=r"passages"):
        general_text(rows, words=words)


@pytest.mark.parametrize("part", ["docstrings", "reference", "code", "cipher"])
def test_passages_of_a_corpus_have_one_length_and_do_not_overlap(part: str) -> None:
    rows = corpus(part, 400, characters=48)
    assert {len(row["text"]) for row in rows} == {48} and len({row["id"] for row in rows}) == 400
    assert corpus(part, 30, characters=48, seed=1) == corpus(part, 60, characters=48, seed=1)[:30] != rows[:30]
    assert corpus(part, 300, characters=48, after=100) == rows[100:]
    pairs = {row["id"].rpartition("/")[0]: row["id"] for row in rows}
    assert all(key.startswith(f"{part}/") for key in pairs)


def test_each_corpus_is_of_its_own_kind() -> None:
    texts = {p: " ".join(r["text"] for r in corpus(p, 800)) for p in ("docstrings", "reference", "code", "cipher")}  # type: ignore[arg-type]
    share = {
        part: {word: text.count(word) / len(text) for word in (" the ", "self", "=")} for part, text in texts.items()
    }
    assert share["docstrings"][" the "] > 0.003 and share["reference"][" the "] > 0.003
    assert share["code"]["self"] > 10 * max(share["docstrings"]["self"], 1e-5) and share["code"]["="] > 0.005
    assert share["cipher"][" the "] == 0.0


def test_the_cipher_is_the_docstrings_letter_by_letter() -> None:
    plain = {row["id"].partition("/")[2]: row["text"] for row in corpus("docstrings", 5000)}
    cipher = {row["id"].partition("/")[2]: row["text"] for row in corpus("cipher", 5000)}
    both = plain.keys() & cipher.keys()
    pairs = {pair for key in both for pair in zip(plain[key], cipher[key])}
    assert len(both) > 1000
    assert len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})  # one to one
    assert all((a == b) == (not a.isascii() or not a.isalpha()) for a, b in pairs)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("prose", {}, "no corpus 'prose'"),
        ("code", {"rows": 10**7}, "passages"),
        ("code", {"characters": 1}, "at least 2"),
    ],
)
def test_a_corpus_says_what_there_is(part: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corpus(part, **options)  # type: ignore[arg-type]


def test_instructions_are_unique_and_many() -> None:
    assert sum(len(answers) for _, answers in KNOWLEDGE.values()) >= 230
    assert len({row["id"] for row in EVERY_INSTRUCTION}) == len({row["prompt"] for row in EVERY_INSTRUCTION}) == 230


def test_an_instruction_holds_its_answer_and_wrong_ones_do_not() -> None:
    for row in EVERY_INSTRUCTION:
        assert row["answer"] in row["completion"] and row["answer"] in row["paraphrased_completion"]
        assert row["answer"] not in row["prompt"] and row["answer"] not in row["paraphrased_prompt"]
        for key in ("perturbed_completions", "perturbed_paraphrases"):
            assert len(set(row[key])) == 3
            assert not any(row["answer"] in sentence for sentence in row[key])


def test_arithmetic_and_calendar_are_right() -> None:
    for row in EVERY_INSTRUCTION:
        if row["attribute"] in ("sum", "product"):
            a, operation, b = row["subject"].split()
            assert int(row["answer"]) == (int(a) + int(b) if operation == "plus" else int(a) * int(b))
    by_id = {row["id"]: row["answer"] for row in EVERY_INSTRUCTION}
    for row_id, answer in {
        "instruction/day_after/Sunday": "Monday",
        "instruction/day_before/Monday": "Sunday",
        "instruction/month_after/December": "January",
    }.items():
        assert by_id.get(row_id, answer) == answer
    assert KNOWLEDGE["capital"][1]["France"] == "Paris" and KNOWLEDGE["young"][1]["cow"] == "calf"


def test_articles_fit_their_words() -> None:
    for row in EVERY_INSTRUCTION:
        for sentence in (row["completion"], *row["perturbed_completions"]):
            assert not re.search(r"\ba [aeio]", sentence) and not re.search(r"\ban [^aeioue]", sentence), sentence


def test_instructions_are_prefix_stable_and_safe_to_change() -> None:
    assert instructions(10, seed=1) == instructions(40, seed=1)[:10]
    instructions(1, seed=1)[0]["perturbed_completions"].clear()
    assert len(instructions(1, seed=1)[0]["perturbed_completions"]) == 3
    with pytest.raises(ValueError, match="There are"):
        instructions(10**6)


def test_digits_are_stratified_rows() -> None:
    train, test = digits(seed=0, test=0.2)
    assert (len(train), len(test)) == (1437, 360)
    assert not {row["id"] for row in train} & {row["id"] for row in test}
    x = torch.stack([row["inputs"] for row in train])
    assert x.shape == (1437, 64) and x.dtype == torch.float32
    assert float(x.min()) == 0.0 and float(x.max()) == 1.0
    for part in (train, test):
        share = torch.bincount(torch.tensor([row["label"] for row in part]), minlength=10) / len(part)
        assert bool((share - 0.1).abs().max() < 0.01)
    again = digits(seed=0, test=0.2)[1]
    assert [row["id"] for row in again] == [row["id"] for row in test]
    assert [row["id"] for row in digits(seed=1)[1]] != [row["id"] for row in test]


def test_load_reaches_texts_and_digits() -> None:
    assert load({"zoo": "general_text", "rows": 8, "words": 40}) == general_text(8, words=40)
    assert load({"zoo": "corpus", "part": "code", "rows": 8, "characters": 20}) == corpus("code", 8, characters=20)
    assert load({"zoo": "instructions", "rows": 8, "seed": 2}) == instructions(8, seed=2)
    assert len(load({"zoo": "digits", "part": "test", "test": 0.1})) == 180
    with pytest.raises(ValueError, match=r"digits has no part 'all'; there are: train, test"):
        load({"zoo": "digits", "part": "all"})
    with pytest.raises(ValueError, match=r"digits: test is a share"):
        load({"zoo": "digits", "test": 2})
