"""0 and 1 by hand, and McNemar's test on them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier, ClassifierSubject
from palimpsest.audits.accuracy import Accuracy
from palimpsest.statistics import is_binary, mcnemar
from palimpsest.zoo.models import tiny_llama

ROWS = [{"id": "a", "label": 0}, {"id": "b", "label": 1}, {"id": "c", "label": 2}]


def test_by_hand(scripted: Any) -> None:
    classes = {"a": [0.7, 0.2, 0.1], "b": [0.7, 0.2, 0.1], "c": [0.1, 0.1, 0.8]}
    scores = Accuracy()(scripted(classes=classes), {"retain": ROWS}, "retain")
    assert scores.items.tolist() == [1.0, 0.0, 1.0]
    assert is_binary(scores)


def test_two_runs_are_compared_by_mcnemar(scripted: Any) -> None:
    right = {"a": [0.8, 0.1, 0.1], "b": [0.1, 0.8, 0.1], "c": [0.1, 0.1, 0.8]}
    wrong = {**right, "b": [0.8, 0.1, 0.1]}
    before, after = (Accuracy()(scripted(classes=c), {"retain": ROWS}, "retain") for c in (right, wrong))
    assert (mcnemar(before, after).only_before, mcnemar(before, after).only_after) == (1, 0)


def test_a_language_model_has_no_classes() -> None:
    model, tokenizer = tiny_llama()
    with pytest.raises(ValueError, match=r"classes, which a language model has none of"):
        Accuracy()(CausalLM(tokenizer).subject(model), {"retain": ROWS}, "retain")


def test_a_row_without_a_label_is_named(scripted: Any) -> None:
    with pytest.raises(ValueError, match="the retain row 'x' has no label"):
        Accuracy()(scripted(), {"retain": [{"id": "x"}]}, "retain")


def test_a_row_that_a_classifier_cannot_read_is_named_by_its_number() -> None:
    """Counted from 1 over all batches, as everywhere."""
    subject = ClassifierSubject(Classifier(2), nn.Linear(1, 2), rows_a_batch=2)
    rows = [{"inputs": [0.5], "label": label} for label in (0, 1, 1, 2)]
    with pytest.raises(ValueError, match=r"^row 4: the label 2 lies outside 0\.\.1"):
        Accuracy()(subject, {"retain": rows}, "retain")
