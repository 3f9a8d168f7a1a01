"""Distances between states and those of the base on general texts: GeRe's baselines."""

import pytest
from stored_states import TASK, TEXTS, loss_of, moved, nothing_for_the_base_and_something_for_another, values

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objectives.feature_distance import FeatureDistance, feature_distance
from palimpsest.zoo.models import tiny_llama


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    return model, CausalLM(tokenizer)


@pytest.fixture
def roles(language):
    return language[1].roles(replay=TEXTS, task=TASK)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_nothing_to_do_for_the_base_and_something_for_another(language, roles, norm):
    nothing_for_the_base_and_something_for_another(FeatureDistance(norm), language[0], roles)


def test_distances_by_hand():
    hidden, base = values(1.0, 4.0, -1.0), values(0.0, 2.0, -1.0)
    assert float(feature_distance(hidden, base, "l1")) == pytest.approx(1.0)
    assert float(feature_distance(hidden, base, "l2")) == pytest.approx(5 / 3)


def test_distances_in_a_batch(language, roles):
    state, other = FeatureDistance().prepare(language[0], roles, "replay"), moved(language[0])
    sums, tokens = 0.0, 0
    for index in range(4):
        ids = roles["replay"][index]["input_ids"][None]
        own, base = (m.model(ids).last_hidden_state[0, :-1].detach() for m in (other, language[0]))
        sums, tokens = sums + float((own - base).square().mean(-1).sum()), tokens + len(own)
    found = float(loss_of(FeatureDistance("l2"), other, roles, state).detach())
    assert found == pytest.approx(sums / tokens, rel=1e-4)


def test_fields():
    with pytest.raises(ValueError, match=r"feature_distance\.norm"):
        build({"feature_distance": {"norm": "l3"}}, "objectives")
