"""Long texts in pieces: nothing is lost, nothing is too long, and only the last piece ends the document."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.pieces import cut
from palimpsest.zoo.models import tiny_llama, word_llama

WORDS = ["Ada", "mends", "old", "clocks", "and", "Ben", "keeps", "seven", "bees", "near", "the", "mill"]
LONG = " ".join(WORDS[i * i % len(WORDS)] for i in range(150))


def by_character(text: str, limit: int, around: int = 0) -> list[str]:
    return cut(text, range(len(text)), lambda piece: len(piece) + around, limit)


def test_pieces_are_of_about_one_size_and_end_before_a_word() -> None:
    assert by_character("abc defg hi jkl mnop", 8) == ["abc ", "defg hi ", "jkl mnop"]
    assert by_character("abcdefghij", 4) == ["abcd", "efg", "hij"]
    assert by_character("abcdefghij", 5, around=1) == ["abcd", "efg", "hij"]
    assert by_character("abc", 3) == ["abc"]


def test_a_piece_that_is_longer_alone_is_made_shorter() -> None:
    found = cut("abcdefghij", range(10), lambda piece: len(piece) + (piece[0] != "a"), 4)
    assert "".join(found) == "abcdefghij" and [len(p) for p in found] == [4, 3, 3]


@pytest.mark.parametrize("length", [lambda t: len(t) + 4, lambda t: 10 if len(t) == 10 else 9])
def test_what_never_fits_is_said(length: Callable[[str], int]) -> None:
    with pytest.raises(ValueError, match=r"no (text|piece from character 1 on) fits into 4 tokens"):
        cut("abcdefghij", range(10), length, 4)


TOKENIZERS = {"bytes": tiny_llama(259, 1, 16)[1], "merges": tiny_llama()[1], "words": word_llama()[1]}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("end_of_text", [False, True])
@given(text=st.text(min_size=1, max_size=60).filter(str.strip), limit=st.integers(8, 20))
def test_any_text_is_whole_and_every_piece_fits(kind: str, end_of_text: bool, text: str, limit: int) -> None:
    adapter = CausalLM(TOKENIZERS[kind], max_length=limit, end_of_text=end_of_text)
    rows = adapter.pieces({"id": "a", "text": text})
    kept = "".join(row["text"] for row in rows)
    assert [c for c in kept if not c.isspace()] == [c for c in text if not c.isspace()]
    assert all(len(adapter.tokens.ids(row["text"], special=True)) <= limit for row in rows)


def test_ids_and_other_columns_and_the_end() -> None:
    adapter = CausalLM(TOKENIZERS["merges"], max_length=64, end_of_text=True)
    rows = adapter.pieces({"id": "manual", "text": LONG, "source": "shelf"})
    assert len(rows) > 3 and "".join(row["text"] for row in rows) == LONG
    assert [row["id"] for row in rows] == [f"manual#{i + 1}" for i in range(len(rows))]
    assert {row["source"] for row in rows} == {"shelf"}
    assert all(row["text"].startswith(" ") for row in rows[1:]), "no word is cut"
    ends = [adapter.encode(row)["input_ids"][-1].item() == adapter.tokenizer.eos_token_id for row in rows]
    assert ends == [False] * (len(rows) - 1) + [True]
    assert all(len(adapter.encode(row)["input_ids"]) <= 64 for row in rows)
    assert "id" not in adapter.pieces({"text": LONG})[0]


def test_a_row_that_fits_stays_as_it_is() -> None:
    adapter = CausalLM(TOKENIZERS["merges"], max_length=64)
    row = {"id": 1, "text": "few words"}
    assert adapter.pieces(row) == [row]


def test_only_plain_text_is_cut() -> None:
    adapter = CausalLM(TOKENIZERS["merges"], max_length=64)
    with pytest.raises(ValueError, match="notes row 2 is no plain text, and only such rows can be cut; shorten it"):
        adapter.pieces({"prompt": "a", "completion": LONG}, "notes row 2")
