"""The threshold margin, a text at a time, against the figures of GeRe's card."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stored_states import (
    DOUBLE,
    TASK,
    TEXTS,
    by_hand,
    loss_of,
    moved,
    negative_deviations_are_refused,
    nothing_for_the_base_and_something_for_another,
    values,
)

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.threshold_margin import BaseStates, ThresholdMargin, statistics, violations
from palimpsest.roles import Answers, Roles
from palimpsest.step import Step
from palimpsest.zoo.models import tiny_llama


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    return model, CausalLM(tokenizer)


@pytest.fixture
def roles(language):
    return language[1].roles(replay=TEXTS, task=TASK)


LOW, HIGH = values(-1, -1, -1), values(1, 1, 1)


# 1. to 4. The function


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient_by_hand(dtype):
    hidden = values(0.7, 1.3, -2.5).to(dtype).requires_grad_()
    found = violations(hidden, values(1.5, 0.2, -2.0).to(dtype), LOW.to(dtype), HIGH.to(dtype))
    expected = values(0.3, 0.3, 0.0).to(dtype)
    torch.testing.assert_close(found, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-7)
    (found.sum() / 2).backward()
    assert hidden.grad.tolist() == [-0.5, 0.5, 0.0]


def test_sees_states_and_not_values():
    base = values(-3.0, 0.5, 1.01)
    for hidden in (base, values(-1.5, -0.99, 40.0)):
        hidden = hidden.clone().requires_grad_()
        found = violations(hidden, base, LOW, HIGH)
        found.sum().backward()
        assert not found.any() and not hidden.grad.any()
    assert violations(values(-0.5, 0.0, 2.0), base, LOW, HIGH).tolist() == [0.5, 0, 0]


def test_gradients_agree_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    hidden, base = (2 * torch.randn(5, 3, dtype=DOUBLE, generator=generator) for _ in range(2))
    assert torch.autograd.gradcheck(lambda h: violations(h, base, LOW, HIGH), hidden.requires_grad_())


def test_infinite_and_vanishing_width_of_the_neutral_state():
    mean, hidden, base = values(0.2, -1, 3), values(1, -2, 2.5), values(-1, -2, 4.0)
    wide = violations(hidden, base, mean - 1e9, mean + 1e9)
    assert not wide.any()
    hinge = violations(hidden, base, mean, mean)  # the base is negative, negative, positive
    torch.testing.assert_close(hinge, values(0.8, 0.0, 0.5))
    on_it = violations(hidden, mean, mean, mean)  # negative and positive at once
    torch.testing.assert_close(on_it, (hidden - mean).abs())


# 6. Statistics


@given(st.integers(0, 2**32), st.sampled_from([1, 7, 4097]), st.floats(0, 1e4))
def test_statistics_of_all_tokens(seed, tokens, shift):
    states = torch.randn(tokens, 3, generator=torch.Generator().manual_seed(seed)) + shift
    mean, deviation = statistics(states)
    torch.testing.assert_close(mean, states.double().mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(deviation, states.double().std(0, unbiased=False), rtol=1e-9, atol=1e-9)


def test_statistics_of_a_large_constant_dimension():
    _, deviation = statistics(torch.full((7, 1), 1234.56))
    assert deviation.tolist() == [0.0]


# The states


def test_states_are_those_of_the_base_in_eval_mode(language, roles):
    model = copy.deepcopy(language[0])
    for block in model.model.layers:
        block.self_attn.attention_dropout = 0.5
    objective = ThresholdMargin()
    state = objective.prepare(model.train(), roles, "replay")
    assert model.training
    model.eval()
    for i in range(4):
        (row,) = list(roles.in_order("replay", 1))[i : i + 1]
        hidden = model.model(row["replay"]["input_ids"]).last_hidden_state[0].detach()
        torch.testing.assert_close(state.states[state.starts[i] : state.starts[i + 1]], hidden, rtol=1e-5, atol=1e-5)
    lengths = [len(e["input_ids"]) for e in roles["replay"]]
    assert state.starts.tolist() == [0, *torch.tensor(lengths).cumsum(0).tolist()]
    torch.testing.assert_close(state.mean, state.states.double().mean(0))


def test_nothing_to_do_for_the_base_and_something_for_another(language, roles):
    nothing_for_the_base_and_something_for_another(ThresholdMargin(), language[0], roles)


def test_later_stages_keep_the_states_of_the_first(language, roles):
    """Thresholds of the model as it is would be met by it: the loss would stay near 0 whatever was forgotten."""
    model = copy.deepcopy(language[0])
    total = on("task", CrossEntropy()) + 0.0 * on("replay", ThresholdMargin())
    training = Training(steps=12, batch=4, lr=1e-2)
    first = fit(model, roles, total, training)
    again = Step(total, model)
    again.prepare(roles, first.states)
    kept, fresh = again.states["replay/threshold_margin"], ThresholdMargin().prepare(model, roles, "replay")
    base = ThresholdMargin().prepare(language[0], roles, "replay")
    for name, value in base.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value), name
    assert float(loss_of(ThresholdMargin(), model, roles, kept).detach()) > 0.1
    assert float(loss_of(ThresholdMargin(), model, roles, fresh).detach()) < 1e-5


# 7. and 8. Beside plain replay


def test_without_weight_it_is_plain_replay_and_every_step_has_a_batch_of_texts(language, roles):
    """The weights are the same bits: storing the states and looking at the hidden layer disturb nothing."""
    replay = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
    ends = []
    for objective in (replay, replay + 0.0 * on("replay", ThresholdMargin())):
        model = copy.deepcopy(language[0])
        fit(model, roles, objective, Training(steps=5, batch=3, lr=1e-2))
        ends.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends))
    steps = [roles.window(step, 3, seed=0)[0]["replay"]["index"].tolist() for step in range(8)]
    assert all(len(own) == 3 for own in steps)
    assert Counter(i for own in steps for i in own) == dict.fromkeys(range(4), 6), "texts are gone through in turn"


# 5. Per text and per batch


def test_each_text_is_divided_by_its_own_violations(language, roles):
    state, other = ThresholdMargin(0.5).prepare(language[0], roles, "replay"), moved(language[0], 0.005)
    texts = by_hand(other, roles, state, 0.5)
    expected = sum(total / max(number, 1) for total, number in texts) / 4
    found = float(loss_of(ThresholdMargin(0.5), other, roles, state).detach())
    assert found == pytest.approx(expected, rel=1e-4)
    entries = sum(total for total, _ in texts) / (32 * len(state.ids))
    assert found > 4 * entries, "a mean over all entries would be several times weaker"


# 8. What is refused


def test_states_that_are_missing_or_stale(language, roles):
    model, adapter = language
    term = on("replay", ThresholdMargin())
    (batch,) = roles.window(0, 4, seed=0)
    with pytest.raises(ValueError, match="states are missing; hand over what `prepare` returned"):
        evaluate(term, model, batch)
    states = ThresholdMargin().prepare(model, roles, "replay")
    other = adapter.roles(replay=[*TEXTS[:3], {"text": "the sky is blue"}], task=TASK)
    with pytest.raises(ValueError, match="other texts or to another tokenizer; let `prepare`"):
        loss_of(ThresholdMargin(), model, other, states)
    with pytest.raises(ValueError, match="give all stages the same rows"):
        ThresholdMargin().prepare(model, other, "replay", states.state_dict())
    tokenizer = tiny_llama(400, 1, 16)[1]
    with pytest.raises(ValueError, match="or to another tokenizer"):
        ThresholdMargin().prepare(model, CausalLM(tokenizer).roles(replay=TEXTS), "replay", states.state_dict())
    longer = adapter.roles(replay=[*TEXTS, *TEXTS], task=TASK)
    with pytest.raises(ValueError, match="No state is stored for row"):
        loss_of(ThresholdMargin(), model, longer, states, size=8)
    narrow = BaseStates(states.states[:, :16], states.ids, states.starts)
    with pytest.raises(ValueError, match="16 dimensions and the model 32"):
        loss_of(ThresholdMargin(), model, roles, narrow)


def test_rows_drawn_afresh_are_refused(language):
    roles = Roles(language[1], {"task": TASK}, answers={"replay": Answers("task", "completion", (" no",))})
    with pytest.raises(ValueError, match="drawn afresh in every round"):
        ThresholdMargin().prepare(language[0], roles, "replay")


def test_fields():
    negative_deviations_are_refused(ThresholdMargin)
