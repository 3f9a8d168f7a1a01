"""Duplicates, blocks of equal length, diversity and contamination, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.corpus import contaminated, diversity, documents, normalized, pack, unique, words


def rows(*texts: str) -> list[dict[str, str]]:
    return [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]


def test_case_signs_and_spaces_make_no_new_text() -> None:
    assert unique(rows("So  good!", "so good", "so bad", "SO BAD!!", "!!!", "???", "!!!")) == [0, 2, 4, 5]
    assert normalized(" !? ") == "!?"


def test_blocks_by_hand() -> None:
    blocks = pack(rows("a b c", "d", "e f g h"), 3, name="x")
    assert [b["text"] for b in blocks] == ["a b c", "d e f"]  # g h is left over
    assert [b["id"] for b in blocks] == ["x-00000", "x-00001"]
    assert [documents(b) for b in blocks] == [("d0",), ("d1", "d2")]
    assert documents({"id": "own"}) == ("own",)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 7))
def test_blocks_have_the_length_and_lose_less_than_one(texts: list[list[str]], length: int) -> None:
    blocks = pack(rows(*(" ".join(t) for t in texts)), length)
    every = [w for t in texts for w in t]
    assert all(words(b["text"]) == length for b in blocks)
    assert " ".join(b["text"] for b in blocks).split() == every[: len(blocks) * length]
    assert len(every) - len(blocks) * length < length


def test_another_counter_is_never_passed() -> None:
    """As characters, with the space before each word: 'aa' costs 3, so that two fill a block of 7 and three do not."""
    blocks = pack(rows("aa bb cc dd ee"), 7, count=len)
    assert [b["text"] for b in blocks] == ["aa bb", "cc dd"]
    with pytest.raises(ValueError, match=r"The word 'abcdefgh' of 'd0' alone has 9 tokens; raise the length to that\."):
        pack(rows("abcdefgh"), 7, count=len)
    with pytest.raises(ValueError, match="at least 1 token, not 0"):
        pack(rows("a"), 0)


def test_diversity_by_hand() -> None:
    found = diversity(["a b a b", "A c"])  # 6 words, 3 of them different; pairs ab ba ab ac; triples aba bab
    assert found.words == 6
    assert found.type_token_ratio == 3 / 6 and found.distinct_pairs == 3 / 4 and found.distinct_triples == 1.0
    with pytest.raises(ValueError, match="of no words is not defined"):
        diversity(["", " "])


def test_a_probe_in_the_training_text_is_found() -> None:
    texts = ["one two three four five", "six seven"]
    probes = ["Two three, four!", "seven", "four five six", "one two"]
    assert contaminated(texts, probes, n=3) == 3 / 4  # four five six reaches over the end of a text
    assert contaminated(texts, ["zero two three four zero"], n=3) == 1 and contaminated(texts, ["zero two"], n=3) == 0
    with pytest.raises(ValueError, match="no probe to look for"):
        contaminated(texts, [])
