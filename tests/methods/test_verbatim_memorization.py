"""Where a text is cut, what counts as recited, and what the model is given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.rows_to_tokens import Tokens, prompt_ids
from palimpsest.audits.verbatim_memorization import VerbatimMemorization, split_words
from palimpsest.zoo.models import tiny_llama

TEXT = "alpha beta  gamma\ndelta epsilon zeta eta theta"


def test_the_cut_lies_after_whole_words() -> None:
    assert split_words(TEXT, 3) == ("alpha beta  gamma", "\ndelta epsilon zeta eta theta")
    assert split_words(TEXT, 8) == (TEXT, "")
    assert split_words(TEXT, 99) == (TEXT, "")


@given(st.text(alphabet="ab \n\t", max_size=40), st.integers(1, 6))
def test_the_parts_are_the_text_and_the_first_has_so_many_words(text: str, words: int) -> None:
    start, rest = split_words(text, words)
    assert start + rest == text
    assert len(start.split()) == min(words, len(text.split()))


def test_recited_unrelated_and_half(scripted: Any) -> None:
    rest = "delta epsilon zeta eta theta"
    rows = [{"id": "t", "text": TEXT}]

    def value(answer: str) -> float:
        subject = scripted(answers={"alpha beta  gamma": answer})
        return float(VerbatimMemorization(prefix=3)(subject, {"forget": rows}, "forget").items[0])

    assert value(rest) == 1.0
    assert value("nothing of the kind") == 0.0
    assert value("delta zeta") == pytest.approx(2 * 1 * 0.4 / 1.4)


def test_the_true_continuation_is_cut_to_the_same_budget(scripted: Any) -> None:
    subject = scripted(answers={"alpha beta  gamma": "delta epsilon zeta eta theta"})
    audit = VerbatimMemorization(prefix=3, max_new_tokens=2)
    scores = audit(subject, {"forget": [{"text": TEXT}]}, "forget")
    assert scores.outputs == ("delta epsilon",)
    assert scores.items.tolist() == [1.0]  # against all five words it would be 4 / 7


def test_a_row_with_a_prompt_is_continued_by_its_completion(scripted: Any) -> None:
    rows = [{"prompt": "q", "completion": "a b c d"}]
    scores = VerbatimMemorization()(scripted(answers={"q": "a c"}), {"forget": rows}, "forget")
    assert scores.items.tolist() == pytest.approx([2 / 3])


def test_a_text_that_ends_within_the_beginning_is_refused(scripted: Any) -> None:
    with pytest.raises(ValueError, match=r"nothing follows the first 32 words of the forget row 2; lower prefix"):
        VerbatimMemorization()(scripted(), {"forget": [{"text": "word " * 40}, {"text": TEXT}]}, "forget")


def test_a_row_without_a_text_or_a_completion_is_named_by_its_number(scripted: Any) -> None:
    with pytest.raises(ValueError, match=r"the forget row 2 has no completion; fill it"):
        VerbatimMemorization()(scripted(), {"forget": [{"text": "word " * 40}, {"prompt": "q"}]}, "forget")


@pytest.mark.parametrize("fields", [{"prefix": 0}, {"max_new_tokens": 0}])
def test_impossible_lengths_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        VerbatimMemorization(**fields)


def test_a_beginning_is_never_wrapped_as_a_chat() -> None:
    _, tokenizer = tiny_llama()
    plain = prompt_ids({"text_prefix": "Once upon"}, Tokens(tokenizer), "row")
    chat = Tokens(tokenizer, chat=True, chat_template="chatml")
    assert prompt_ids({"text_prefix": "Once upon"}, chat, "row") == plain == tokenizer("Once upon")["input_ids"]
    assert prompt_ids({"prompt": "Once upon"}, chat, "row") != plain


def test_truncated_texts_are_the_first_tokens() -> None:
    model, tokenizer = tiny_llama()
    subject = CausalLM(tokenizer).subject(model)
    text = "The quiet river, which nobody named, runs on."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert subject.truncate([text, text], 5) == [tokenizer.decode(ids[:5])] * 2
    assert subject.truncate([text], len(ids)) == [text]
    assert subject.truncate([], 5) == []
