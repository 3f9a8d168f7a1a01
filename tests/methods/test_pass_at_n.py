"""Pass@N: the estimator against counting, the audit on answers that are written down, and sampling itself."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.causal_lm_subject import CausalLMSubject
from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.pass_at_n import PassAtN, pass_at_n
from palimpsest.zoo.models import tiny_llama

# The estimator


def test_by_hand() -> None:
    assert pass_at_n(10, 3, 5) == pytest.approx(0.9166667, abs=1e-7)
    assert pass_at_n(4, 0, 2) == 0 and pass_at_n(4, 4, 1) == 1 and pass_at_n(4, 3, 2) == 1


@pytest.mark.parametrize(("samples", "correct", "n"), [(7, 2, 3), (6, 1, 6), (5, 3, 2), (8, 0, 4)])
def test_against_every_choice(samples: int, correct: int, n: int) -> None:
    right = [i < correct for i in range(samples)]
    choices = list(itertools.combinations(right, n))
    assert pass_at_n(samples, correct, n) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize("n", [1, 3, 6])
def test_without_bias(n: int) -> None:
    """Over all outcomes of six samples that are right with probability 0.3."""
    p = Fraction(3, 10)
    expected = sum(float(math.comb(6, c) * p**c * (1 - p) ** (6 - c)) * pass_at_n(6, c, n) for c in range(7))
    assert expected == pytest.approx(1 - 0.7**n)


@pytest.mark.parametrize(("samples", "correct", "n"), [(4, 1, 5), (4, 1, 0), (4, 5, 2), (4, -1, 2)])
def test_what_cannot_be(samples: int, correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        pass_at_n(samples, correct, n)


# The audit


class Told:
    """A subject whose samples are written down by prompt."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = answers
        self.seeds: list[int] = []

    def sample(self, rows, max_new_tokens, *, count, seeds, temperature=1.0):  # type: ignore[no-untyped-def]
        self.seeds = list(seeds)
        return [self.answers[row["prompt"]][:count] for row in rows]


ROWS = [{"id": "a", "prompt": "q1", "answer": "Bergen"}, {"id": "b", "prompt": "q2", "answer": "Oslo"}]


def test_the_audit() -> None:
    subject = Told({"q1": ["no", "in Bergen", "no", "no"], "q2": ["no"] * 4})
    scores = PassAtN(n=2, samples=4)(subject, {"task": ROWS}, "task")  # type: ignore[arg-type]
    assert scores.items.tolist() == pytest.approx([0.5, 0.0])
    assert scores.outputs == ("in Bergen", "no")
    assert len(set(subject.seeds)) == 2
    strict = PassAtN(n=2, samples=4, mode="equals")(subject, {"task": ROWS}, "task")  # type: ignore[arg-type]
    assert strict.items.tolist() == [0.0, 0.0]


def test_a_checker_of_ones_own() -> None:
    subject = Told({"q1": ["2", "4"], "q2": ["3", "5"]})
    rows = [{"id": row["id"], "prompt": row["prompt"]} for row in ROWS]  # no answer is needed
    even = PassAtN(n=1, samples=2, checker=lambda output, row: int(output) % 2 == 0 and "prompt" in row)
    assert even(subject, {"task": rows}, "task").items.tolist() == [1.0, 0.0]  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="at least n samples"):
        PassAtN(n=8, samples=4)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        PassAtN(temperature=0.0)
    with pytest.raises(ValueError, match="has no answer"):
        PassAtN()(Told({}), {"task": [{"id": "a", "prompt": "q"}]}, "task")  # type: ignore[arg-type]


def test_exact_on_a_classifier() -> None:
    model = torch.nn.Linear(2, 3)
    subject = Classifier(3).subject(model)
    rows = [{"inputs": [1.0, 2.0], "label": 0}, {"inputs": [0.0, 1.0], "label": 2}]
    found = PassAtN(n=4, how="exact")(subject, {"task": rows}, "task").items
    p = subject.predict(rows).double().exp().gather(1, torch.tensor([[0], [2]]))[:, 0]
    torch.testing.assert_close(found, 1 - (1 - p) ** 4)
    with pytest.raises(ValueError, match="does not write"):
        subject.sample(rows, 4, count=1, seeds=[0, 1])


# Sampling


@pytest.fixture(scope="module")
def language() -> tuple[torch.nn.Module, CausalLM]:
    """Weights so large that a few tokens are likely and depend on the prompt."""
    model, tokenizer = tiny_llama(300, layers=1, width=32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    return model, CausalLM(tokenizer)


PROMPTS = [{"prompt": "who"}, {"prompt": "where are you going to"}, {"prompt": "a"}]


def said(language: tuple[torch.nn.Module, CausalLM], row: dict[str, str], temperature: float = 1.0) -> dict[str, float]:
    """The probability of each text of one token after the row's prompt; several tokens may be the same text."""
    model, adapter = language
    with torch.no_grad():
        logits = model(torch.tensor([adapter.prompt(row)])).logits[0, -1].double()
    found: dict[str, float] = {}
    for token, p in enumerate((logits / temperature).softmax(0).tolist()):
        text = adapter.tokenizer.decode([token], skip_special_tokens=True).strip()
        found[text] = found.get(text, 0.0) + p
    return found


def test_samples_do_not_depend_on_the_batch(language: tuple[torch.nn.Module, CausalLM]) -> None:
    model, adapter = language
    many, one = (CausalLMSubject(adapter, model, tokens_a_batch=n) for n in (4096, 1))
    state = torch.get_rng_state()
    found = many.sample(PROMPTS, 5, count=3, seeds=[1, 2, 3])
    assert torch.equal(torch.get_rng_state(), state)
    assert found == one.sample(PROMPTS, 5, count=3, seeds=[1, 2, 3])
    assert found[::-1] == many.sample(PROMPTS[::-1], 5, count=3, seeds=[3, 2, 1])
    assert found[1:2] == many.sample(PROMPTS[1:2], 5, count=3, seeds=[2])
    assert found != many.sample(PROMPTS, 5, count=3, seeds=[4, 5, 6])
    assert [len(texts) for texts in found] == [3, 3, 3] and len({text for texts in found for text in texts}) > 3


def test_samples_follow_the_probabilities(language: tuple[torch.nn.Module, CausalLM]) -> None:
    model, adapter = language
    for temperature in (1.0, 2.0):
        (drawn,) = adapter.subject(model).sample(PROMPTS[:1], 1, count=4000, seeds=[7], temperature=temperature)
        seen = Counter(drawn)
        for text, expected in sorted(said(language, PROMPTS[0], temperature).items(), key=lambda kv: -kv[1])[:4]:
            assert seen[text] / 4000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_a_low_temperature_is_greedy(language: tuple[torch.nn.Module, CausalLM]) -> None:
    model, adapter = language
    subject = adapter.subject(model)
    drawn = subject.sample(PROMPTS, 4, count=2, seeds=[0, 1, 2], temperature=1e-6)
    assert drawn == [[text, text] for text in subject.generate(PROMPTS, 4)]


def test_bad_questions(language: tuple[torch.nn.Module, CausalLM]) -> None:
    model, adapter = language
    for fields in ({"count": 0}, {"count": 1, "temperature": 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            adapter.subject(model).sample(PROMPTS[:1], 1, seeds=[0], **fields)


def test_sampled_and_exact_agree(language: tuple[torch.nn.Module, CausalLM]) -> None:
    """On one-token answers: the share of 400 samples, and the probability that the model gives them."""
    model, adapter = language
    texts = [said(language, row) for row in PROMPTS]
    rows = [{"id": p["prompt"], **p, "answer": max(t, key=t.__getitem__)} for p, t in zip(PROMPTS, texts)]
    audit = PassAtN(n=2, samples=400, max_new_tokens=1, checker=lambda text, row: text == row["answer"])
    found = audit(adapter.subject(model), {"task": rows}, "task").items
    expected = [1 - (1 - t[row["answer"]]) ** 2 for t, row in zip(texts, rows)]
    assert found.tolist() == pytest.approx(expected, abs=0.1)
    assert max(expected) > 0.1
