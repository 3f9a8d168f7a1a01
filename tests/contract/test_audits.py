"""What every audit keeps, whichever it is: found by its folder, checked on generated rows and tiny models.

An audit of a language model is recognized by its tag and measured on fictitious authors; one of classifiers alone on
points of a plane.  An audit of another kind of model, or one that needs other rows, is given a case in ``CASES``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.causal_lm_subject import CausalLMSubject
from palimpsest.adapters.classifier import Classifier, ClassifierSubject
from palimpsest.audit import SHARE, Row, Scores, Subject
from palimpsest.card import method_cards
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.zoo.authors import authors, holdout
from palimpsest.zoo.models import tiny_llama
from palimpsest.zoo.text import instructions

Data = Mapping[str, Sequence[Row]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its subject in batches of one row or of many, and rows of every role that an audit may ask for."""

    model: nn.Module
    subject: Callable[[nn.Module, bool], Subject]
    data: Data
    role: str = "forget"


@functools.cache
def language_model() -> Case:
    """Trained on the rows that are then measured, so that what it says depends on what it is asked."""
    model, tokenizer = tiny_llama(width=32)
    adapter, forget = CausalLM(tokenizer), authors(2, 2)
    with torch.random.fork_rng():
        fit(model, adapter.roles(forget=forget), on("forget", CrossEntropy()), Training(steps=40, batch=4, lr=1e-2))
    model.zero_grad(set_to_none=True)

    def subject(model: nn.Module, single: bool) -> Subject:
        return CausalLMSubject(adapter, model, tokens_a_batch=1 if single else 4096)

    data = {
        "forget": forget,
        "retain": authors(4, 2)[4:],
        "holdout": holdout(2, 2),
        "real_authors": instructions(2, seed=1),
        "world_facts": instructions(2, seed=2),
    }
    return Case(model, subject, data)


@functools.cache
def classifier() -> Case:
    """A random network with dropout, which would show a model that is measured in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
        points = torch.randn(24, 2).tolist()
    adapter = Classifier(classes=3, features="2")
    rows = [{"id": f"p{i}", "inputs": p, "label": i % 3} for i, p in enumerate(points)]
    data = {"forget": rows[:8], "retain": rows[8:16], "holdout": rows[16:]}
    return Case(model, lambda m, single: ClassifierSubject(adapter, m, rows_a_batch=1 if single else 64), data)


CASES: dict[str, Callable[[], Case]] = {}
"""Audit -> its case, for those that the tags do not settle."""
SHORT: dict[str, Any] = {"max_new_tokens": 8}
"""Fields set for speed in every audit that has them."""
TAGS = {method.name: method.card.tags for method in method_cards() if method.family == "audits"}
AUDITS = sorted(names.names("audits"))


def case_of(name: str) -> Case:
    if name in CASES:
        return CASES[name]()
    if "language-model" in TAGS[name]:
        return language_model()
    assert "classifier" in TAGS[name], f"{name} has no tag that names its kind of model; give it a case in CASES."
    return classifier()


def built(name: str) -> Any:
    """The audit with its defaults, shortened."""
    audit = names.build(name, "audits")
    fields = {f.name for f in dataclasses.fields(audit)}
    return dataclasses.replace(audit, **{k: v for k, v in SHORT.items() if k in fields})


def measured(name: str, *, single: bool = False, data: Data | None = None) -> Scores:
    case = case_of(name)
    scores: Scores = built(name)(case.subject(case.model, single), data or case.data, case.role)
    return scores


@functools.cache
def usual(name: str) -> Scores:
    """Measured once, in large batches, in the usual order."""
    return measured(name)


def same(found: Scores, expected: Scores) -> None:
    """The same value for every id, in whatever order."""
    assert set(found.ids) == set(expected.ids)
    values = dict(zip(expected.ids, expected.items.tolist()))
    assert [values[i] for i in found.ids] == pytest.approx(found.items.tolist(), abs=1e-4)


def test_the_folder_is_not_empty() -> None:
    assert len(AUDITS) >= 15


@pytest.mark.parametrize("name", AUDITS)
def test_one_finite_value_per_item(name: str) -> None:
    scores = usual(name)
    assert scores.name == name
    assert scores.role == case_of(name).role
    assert scores.items.is_floating_point()
    assert bool(torch.isfinite(scores.items).all())
    assert len(set(scores.ids)) == len(scores.ids) == len(scores.items)
    assert scores.better in ("higher", "lower") or scores.better.startswith("nearer:")
    assert scores.statistic != "auc" or scores.groups is not None
    assert scores.outputs is None or len(scores.outputs) == len(scores.ids)


@pytest.mark.parametrize("name", AUDITS)
def test_every_item_lies_within_the_bounds_that_the_audit_states(name: str) -> None:
    """An audit that says of its values that they lie in [0, 1], or are 0 or 1, states these bounds."""
    scores, said = usual(name), type(built(name)).__call__.__doc__ or ""
    low, high = scores.bounds
    assert low - 1e-6 <= float(scores.items.min()) and float(scores.items.max()) <= high + 1e-6
    assert ("in [0, 1]" not in said and "0 or 1" not in said) or scores.bounds == SHARE or "above 0" in said


def test_the_language_model_says_something_of_its_own() -> None:
    """Else the checks below would compare nothing with nothing."""
    assert len(set(usual("knowledge_memorization").outputs or ())) > 1
    assert float(usual("knowledge_memorization").items.mean()) > 0.2


@pytest.mark.parametrize("name", AUDITS)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    turned = {role: list(reversed(rows)) for role, rows in case_of(name).data.items()}
    found = measured(name, data=turned)
    same(found, usual(name))


@pytest.mark.parametrize("name", AUDITS)
def test_the_size_of_batches_does_not_matter(name: str) -> None:
    same(measured(name, single=True), usual(name))


@pytest.mark.parametrize("name", AUDITS)
def test_the_model_is_left_as_it_was(name: str) -> None:
    case = case_of(name)
    state = {key: value.clone() for key, value in case.model.state_dict().items()}
    modules = list(case.model.modules())
    for i, module in enumerate(modules):
        module.training = i % 2 == 0
    random = torch.get_rng_state()
    try:
        found = measured(name)
        assert [m.training for m in modules] == [i % 2 == 0 for i in range(len(modules))]
    finally:
        case.model.eval()
    same(found, usual(name))  # whatever mode the model was in, it was measured in evaluation mode
    assert all(torch.equal(state[key], value) for key, value in case.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", AUDITS)
def test_it_builds_from_its_own_dump(name: str) -> None:
    audit = built(name)
    assert names.build(names.dump(audit), "audits") == audit


@pytest.mark.parametrize("name", AUDITS)
def test_a_role_without_rows_ends_with_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as error:
        measured(name, data={"other": [{"text": "a row"}]})
    assert case_of(name).role in str(error.value)
