"""The longest matching ending, and the greedy tokens it is made of, against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.causal_lm_subject import CausalLMSubject
from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.extraction_strength import ExtractionStrength, extraction_strength
from palimpsest.zoo.authors import articles, authors
from palimpsest.zoo.models import tiny_llama


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ([True, True, True, True], 1.0),
        ([True, True, False, True], 0.25),
        ([False, True, True, True], 0.75),
        ([True, True, True, False], 0.0),
        ([False], 0.0),
        ([True], 1.0),
    ],
)
def test_by_hand(matches: list[bool], expected: float) -> None:
    assert extraction_strength(torch.tensor(matches)) == expected


def test_against_a_loop_over_beginnings() -> None:
    for seed in range(50):
        matches = torch.rand(9, generator=torch.Generator().manual_seed(seed)) < 0.8
        shortest = next(k for k in range(10) if bool(matches[k:].all()))
        assert extraction_strength(matches) == pytest.approx(1 - shortest / 9)


def test_the_audit(scripted: Any) -> None:
    rows = [{"id": "x", "text": "x"}, {"id": "y", "text": "y"}]
    subject = scripted(matches={"x": [False, True], "y": [True, True]})
    assert ExtractionStrength()(subject, {"forget": rows}, "forget").items.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("packed", [False, True])
def test_matches_are_those_of_a_loop_over_single_rows(packed: bool) -> None:
    model, tokenizer = tiny_llama(seed=3)
    adapter = CausalLM(tokenizer, packed=packed)
    rows = [*authors(2, 2), *articles(2)]
    found = CausalLMSubject(adapter, model, tokens_a_batch=300).matches(rows)
    for row, got in zip(rows, found):
        example = adapter.encode(row)
        with torch.no_grad():
            greedy = model(input_ids=example["input_ids"][None]).logits[0, :-1].argmax(-1)
        scored = example["labels"][1:] != -100
        assert torch.equal(got, (greedy == example["labels"][1:])[scored])
        assert got.dtype == torch.bool


def test_a_classifier_matches_where_its_class_is_right() -> None:
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    subject = Classifier(classes=2).subject(model)
    rows = [{"inputs": [2.0, 1.0], "label": 0}, {"inputs": [2.0, 1.0], "label": 1}]
    assert [m.tolist() for m in subject.matches(rows)] == [[True], [False]]
    assert ExtractionStrength()(subject, {"forget": rows}, "forget").items.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="which a classifier does not read"):
        subject.truncate(["a"], 1)
