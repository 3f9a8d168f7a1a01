"""A copy learns, the model does not move, and what cannot be copied says so."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.perplexity import Perplexity
from palimpsest.audits.relearning import Relearning
from palimpsest.sharded_subject import Sharded
from palimpsest.zoo.authors import authors
from palimpsest.zoo.models import tiny_llama

ROWS = authors(2, 2)


@pytest.fixture
def subject() -> Any:
    model, tokenizer = tiny_llama(width=32)
    return CausalLM(tokenizer).subject(model)


def test_more_steps_bring_more_back_and_the_model_stays_bit_equal(subject: Any) -> None:
    subject.model.train()
    before = copy.deepcopy(subject.model.state_dict())
    state = torch.get_rng_state()
    data = {"forget": ROWS}
    at_once = Perplexity()(subject, data, "forget").items.mean()
    few = Relearning("perplexity", steps=2, lr=1e-2)(subject, data, "forget")
    many = Relearning("perplexity", steps=8, lr=1e-2)(subject, data, "forget")
    assert many.items.mean() < few.items.mean() - 0.2 < at_once - 0.4
    assert (few.name, few.better) == ("relearning", "lower")
    assert all(torch.equal(before[k], v) for k, v in subject.model.state_dict().items())
    assert subject.model.training
    assert all(p.grad is None for p in subject.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_starts_from_the_seed_alone(subject: Any) -> None:
    audit = Relearning("perplexity", steps=2, batch=2, lr=1e-2)
    torch.manual_seed(1)
    first = audit(subject, {"forget": ROWS}, "forget")
    torch.manual_seed(2)
    assert torch.equal(audit(subject, {"forget": ROWS}, "forget").items, first.items)


def test_no_gradient_context_of_the_caller_stops_it(subject: Any) -> None:
    with torch.no_grad():
        scores = Relearning("perplexity", steps=1)(subject, {"forget": ROWS}, "forget")
    assert len(scores.ids) == 4


def test_on_one_process_a_sharded_subject_gives_the_same(subject: Any) -> None:
    audit = Relearning("perplexity", steps=2, lr=1e-2)
    plain, sharded = (audit(s, {"forget": ROWS}, "forget").items for s in (subject, Sharded(subject)))
    assert torch.equal(plain, sharded)


def test_a_classifier_relearns_too() -> None:
    torch.manual_seed(0)
    subject = Classifier(classes=2).subject(nn.Linear(2, 2))
    rows = [{"inputs": [1.0, 0.0], "label": 0}, {"inputs": [0.0, 1.0], "label": 1}]
    scores = Relearning("accuracy", steps=60, batch=2, lr=0.1)(subject, {"forget": rows}, "forget")
    assert scores.items.tolist() == [1.0, 1.0]


def test_a_subject_without_a_model_says_what_to_do(scripted: Any) -> None:
    with pytest.raises(ValueError, match=r"Scripted does not show; audit a model through its adapter's subject\(\)\.$"):
        Relearning()(scripted(), {"forget": ROWS}, "forget")


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be above 0"):
        Relearning(steps=0)
    for audit in ("relearning", {"relearning": {}}):
        with pytest.raises(ValueError, match="cannot measure itself"):
            Relearning(audit)


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ("perplexty", r"audit: There is no audit 'perplexty'; did you mean 'perplexity'"),
        ({"rouge": {"x": 1}}, "no field 'x'"),
    ],
)
def test_an_inner_audit_that_cannot_be_built_is_refused_at_once(audit: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Relearning(audit)
    with pytest.raises(ValueError, match=message):
        names.build({"relearning": {"audit": audit}}, "audits")
