"""Nats per token, and exp of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audits.perplexity import Perplexity
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama


def test_by_hand_every_text_counts_the_same(scripted: Any) -> None:
    rows = [{"id": "a", "text": "a"}, {"id": "b", "text": "b"}]
    subject = scripted(logp={"a": [math.log(0.25)], "b": [math.log(0.5), math.log(0.125), math.log(0.25)]})
    scores = Perplexity()(subject, {"retain": rows}, "retain")
    assert scores.items.exp().tolist() == pytest.approx([4.0, 4.0])
    assert (scores.better, scores.unit) == ("lower", "nats/token")


def test_it_is_the_loss_that_the_model_itself_reports() -> None:
    model, tokenizer = tiny_llama(seed=2)
    rows = articles(3)
    scores = Perplexity()(CausalLM(tokenizer).subject(model), {"retain": rows}, "retain")
    for row, value in zip(rows, scores.items.tolist()):
        ids = tokenizer(row["text"], return_tensors="pt")["input_ids"]
        assert value == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
