"""The n-gram model by hand: counts, discounts, what was never seen, and that probabilities sum to one."""

from __future__ import annotations

import math

import pytest

from palimpsest.selectors._ngram import NGram, words_of

DOCUMENTS = [["a", "b", "a", "c"], ["a", "b"]]


def test_words_and_marks() -> None:
    assert words_of("It's 3, no?\n") == ["It", "'", "s", "3", ",", "no", "?"]


def test_a_unigram_model_by_hand() -> None:
    model = NGram(DOCUMENTS, order=1, discount=0.5)
    uniform = 1 / 4  # a, b, c and one unknown word
    assert model.vocabulary == 3
    assert model.probability([], "a") == pytest.approx((3 - 0.5 + 0.5 * 3 * uniform) / 6)
    assert model.probability([], "never") == pytest.approx(0.5 * 3 * uniform / 6)


def test_a_bigram_model_counts_distinct_words_to_the_left_below() -> None:
    model = NGram(DOCUMENTS, order=2, discount=0.5)
    # Bigrams: (start a) 2, (a b) 2, (b a) 1, (a c) 1; to the left of a stand start and b, of b and c only a.
    below = (1 - 0.5 + 0.5 * 3 / 4) / 4  # of b, from 4 kinds of bigrams
    assert model.probability(["a"], "b") == pytest.approx((2 - 0.5 + 0.5 * 2 * below) / 3)
    assert model.probability(["never"], "b") == pytest.approx(below)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("context", [[], ["a"], ["a", "b"], ["never", "a"], ["never", "seen"]])
def test_probabilities_sum_to_one(order: int, context: list[str]) -> None:
    model = NGram(DOCUMENTS, order=order)
    words = ["a", "b", "c", "unknown"]
    # The start of a document is a context and, in models of more than two words, never what follows one.
    assert sum(model.probability(context, word) for word in words) == pytest.approx(1)


def test_perplexity() -> None:
    model = NGram(DOCUMENTS, order=2, discount=0.5)
    first, second = model.probability([""], "a"), model.probability(["a"], "b")
    assert model.perplexity(["a", "b"]) == pytest.approx(1 / math.sqrt(first * second))
    assert model.perplexity([]) == math.inf
    assert NGram(DOCUMENTS, order=1, discount=0.0).perplexity(["never"]) == math.inf
    assert model.perplexity(["a", "b"]) < model.perplexity(["b", "c"]) < math.inf


def test_a_text_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="The reference text holds no word; give a text"):
        NGram([[]])
