"""Every intervention changes what is said, in scores and in generation, and leaves no trace when it is taken off."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.card import docstring_of, parse_card
from palimpsest.intervention import changes_logits
from palimpsest.zoo.models import tiny_llama

NAMES = sorted(names.names("interventions"))
ROWS = [
    {"prompt": "The capital of Ruritania is", "completion": " Strelsau"},
    {"prompt": "Two and two", "completion": " make four, as a rule"},
]


@pytest.fixture(params=NAMES)
def intervention(request):
    return names.build(request.param, "interventions")


@pytest.fixture
def setting():
    """A decoder with clear preferences, a twin with others under the usual names, and the adapter."""
    model, tokenizer = tiny_llama(seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model, {"assistant": twin, "reinforced": twin}, CausalLM(tokenizer)


def asked(adapter, model):
    subject = adapter.subject(model)
    return [subject.logp(ROWS), subject.generate(ROWS, 8)]


def test_scores_are_log_probabilities_that_changed(intervention, setting):
    model, companions, adapter = setting
    before = asked(adapter, model)[0]
    with intervention.attach(model, companions) as same:
        assert same is model
        during = asked(adapter, model)[0]
        with torch.no_grad():
            total = model(input_ids=torch.tensor([[5, 17, 33]]), use_cache=False).logits.log_softmax(-1).logsumexp(-1)
    assert all(bool(torch.isfinite(x).all()) and float(x.max()) <= 1e-6 for x in during)
    assert max(float((a - b).abs().max()) for a, b in zip(before, during)) > 1e-2
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-5, rtol=0)


def test_a_row_scores_the_same_alone_and_beside_others(intervention, setting):
    model, companions, adapter = setting
    with intervention.attach(model, companions):
        together = adapter.subject(model).logp(ROWS)
        alone = [adapter.subject(model).logp([row])[0] for row in ROWS]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_generation_does_not_depend_on_the_cache(intervention, setting):
    model, companions, _ = setting

    def generated(use_cache):
        settings = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "use_cache": use_cache}
        ids = torch.tensor([[5, 17, 33, 90]])
        found = model.generate(input_ids=ids, output_logits=True, return_dict_in_generate=True, **settings)
        return found.sequences, torch.cat(found.logits).softmax(-1)

    before = generated(True)[1]
    with intervention.attach(model, companions):
        (text, first), (again, second) = generated(True), generated(False)
    assert torch.equal(text, again)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert float((first[0] - before[0]).abs().max()) > 1e-3


def test_detaching_leaves_no_trace(intervention, setting):
    model, companions, adapter = setting
    everyone = [m for top in (model, *companions.values()) for m in top.modules()]
    keys, modes = [set(vars(m)) for m in everyone], [m.training for m in everyone]
    weights = {n: v.clone() for n, v in model.state_dict().items()}
    before = asked(adapter, model)
    with pytest.raises(RuntimeError, match="on purpose"), intervention.attach(model, companions):
        asked(adapter, model)
        raise RuntimeError("on purpose")
    assert not changes_logits(model)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in everyone)
    assert [set(vars(m)) for m in everyone] == keys and [m.training for m in everyone] == modes
    assert all(torch.equal(v, weights[n]) for n, v in model.state_dict().items())
    after = asked(adapter, model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)) and before[1] == after[1]


def test_a_companion_that_is_not_there_is_a_sentence(intervention, setting):
    missing = pytest.raises(ValueError, match=r"There is no companion '\w+' \(there are: none\)")
    with missing, intervention.attach(setting[0], {}):
        pass


def test_frozen_and_built_from_its_own_dump(intervention):
    assert dataclasses.is_dataclass(intervention) and type(intervention).__dataclass_params__.frozen
    assert names.build(names.dump(intervention), "interventions") == intervention


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = parse_card(docstring_of(names.names("interventions")[name]))
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith(".") and "inference-time" in card.tags


def test_every_intervention_is_found():
    assert {"logit_difference", "whos_harry_potter"} <= set(NAMES)
