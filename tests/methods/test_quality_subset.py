"""Choosing documents by the perplexity of an n-gram model of a reference text."""

import json
import math
import random

import pytest
import torch

from palimpsest.roles import Roles
from palimpsest.selectors._ngram import NGram, words_of
from palimpsest.selectors.quality_subset import QualitySubset, lowest

NOUNS, VERBS = ("cat", "dog", "bird", "fish", "horse"), ("sees", "likes", "follows", "hears")


def sentences(number, seed):
    draw = random.Random(seed)
    return [
        " ".join(f"the {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)} ." for _ in range(4))
        for _ in range(number)
    ]


def shuffled(text, seed):
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def rows(texts):
    return [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]


def test_uniform_unigrams_have_the_perplexity_of_their_number():
    words = [f"w{i}" for i in range(37)]
    model = NGram([words * 3], order=1, discount=0.0)
    assert model.perplexity(words) == pytest.approx(37.0, rel=1e-12)
    assert model.perplexity(words[:5]) == pytest.approx(37.0) and model.perplexity(["other"]) == math.inf


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one(order):
    documents = [words_of(text) for text in sentences(6, 0)]
    model = NGram(documents, order)
    vocabulary = {w for d in documents for w in d}
    for context in (["the", "cat", "sees"], ["", "", ""], ["cat", "cat", "cat"], ["not", "seen", "before"]):
        known = sum(model.probability(context[4 - order :] if order > 1 else [], w) for w in vocabulary)
        unknown = model.probability(context[4 - order :] if order > 1 else [], "zebra")
        assert known + unknown == pytest.approx(1.0) and unknown > 0


def test_bigram_by_hand():
    """a b a c: c(a) = 2 followed by 2 types; to the left of a stand 2 words, of b and c 1 each."""
    model = NGram([["a", "b", "a", "c"]], order=2, discount=0.5)
    uniform = 1 / 4
    b = (1 - 0.5) / 4 + 0.5 * 3 / 4 * uniform
    assert model.probability(["a"], "b") == pytest.approx((1 - 0.5) / 2 + 0.5 * 2 / 2 * b)
    assert model.probability(["c"], "b") == pytest.approx(b)  # nothing ever followed c
    assert model.perplexity([]) == math.inf


def test_every_document_of_the_domain_ranks_before_its_shuffled_twin():
    good, reference = sentences(20, 1), tuple(sentences(60, 2))
    bad = [shuffled(text, i) for i, text in enumerate(good)]
    mixed = [text for pair in zip(bad, good) for text in pair]
    words = sum(len(words_of(t)) for t in good)
    chosen = QualitySubset(words=words, reference=reference)(rows(mixed))
    assert chosen.index.tolist() == list(range(1, 40, 2))
    score = chosen.score
    assert score[1::2].max() < score[0::2].min()


def test_the_budget_is_kept_within_one_document():
    texts = [text[: 40 + 7 * i] for i, text in enumerate(sentences(15, 3))]
    data = rows(texts)
    sizes = [len(words_of(t)) for t in texts]
    for words in (20, 60, 100, sum(sizes)):
        chosen = QualitySubset(words=words, reference=tuple(sentences(30, 4)), minimum=1)(data)
        total = sum(sizes[i] for i in chosen.index)
        inside = chosen.score[chosen.index]
        outside = [float(s) for i, s in enumerate(chosen.score) if i not in chosen.index.tolist()]
        assert total <= words and words - total <= max(sizes)
        assert not outside or float(inside.max()) <= min(outside)
        assert bool((chosen.weight == 1).all())


def test_length_does_not_win():
    """A short document of the same words is not preferred to a long one."""
    one = "the cat sees the dog ."
    score = QualitySubset(reference=tuple(sentences(30, 0)))(rows([one, " ".join([one] * 5)])).score
    assert float(score[0]) == pytest.approx(float(score[1]), rel=0.25)


def test_ties_repetitions_and_short_documents():
    assert lowest([1.0, 0.5, 1.0, 1.0], [1, 1, 1, 1], 3) == [0, 1, 2]
    assert lowest([2.0, 1.0], [5, 9], 4) == [1]
    texts = ["the cat .", *sentences(1, 5) * 3, *sentences(3, 6)]
    found = QualitySubset(words=24, reference=tuple(texts), minimum=10)(rows(texts))
    assert 0 not in found.index.tolist() and not {2, 3} & set(found.index.tolist())
    assert len(found.score) == len(texts)


def test_the_whole_corpus_is_the_plain_order_of_batches():
    class Words:
        def encode(self, row, place="row"):
            return {"n": torch.tensor(int(row["id"][1:]))}

        def collate(self, examples):
            return {name: torch.stack([e[name] for e in examples]) for name in examples[0]}

    data = rows(sentences(10, 7))
    everything = QualitySubset(words=sum(len(words_of(r["text"])) for r in data))(data)
    plain, chosen = Roles(Words(), {"task": data}), Roles(Words(), {"task": data}, selections={"task": everything})
    for step in range(5):
        one, other = (r.window(step, 4, seed=3)[0]["task"] for r in (plain, chosen))
        assert torch.equal(one["n"], other["n"]) and torch.equal(one["weight"], other["weight"])


def test_reference_from_a_file(tmp_path):
    texts = sentences(30, 2)
    file = tmp_path / "reference.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    data = rows(sentences(5, 8))
    found = QualitySubset(words=40, reference=str(file))(data)
    assert torch.equal(found.score, QualitySubset(words=40, reference=tuple(texts))(data).score)
    pairs = [{"prompt": "the cat sees", "completion": "the dog ."}]
    assert QualitySubset(words=5)([*pairs, *data]).score.shape == (6,)


@pytest.mark.parametrize(
    ("fields", "data", "says"),
    [
        ({"words": 10_000}, rows(sentences(3, 0)), r"10000 words are more than the 72 of the corpus; lower words\."),
        ({"minimum": 99}, rows(sentences(3, 0)), "No document has 99 words"),
        ({}, [], "no text to choose from"),
        ({}, [{"label": 1}], "row 1 has no text"),
        ({"reference": (" ",)}, rows(sentences(3, 0)), "holds no word"),
    ],
)
def test_bad_data(fields, data, says):
    with pytest.raises(ValueError, match=says):
        QualitySubset(**fields)(data)


@pytest.mark.parametrize("fields", [{"words": 0}, {"order": 0}, {"minimum": 0}, {"reference": ()}])
def test_bad_fields(fields):
    with pytest.raises(ValueError, match=r"\.$"):
        QualitySubset(**fields)
