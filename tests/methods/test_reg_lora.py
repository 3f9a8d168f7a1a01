"""RegLoRA against the figures of SEFE's card: positions, penalty, union, what it needs of the stages."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives import reg_lora
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.reg_lora import RegLoRA, join_positions, lora_pairs, product_at, top_positions
from palimpsest.views import ParameterView
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64
TASKS = [
    [{"prompt": f"{word} {i}", "completion": f" {i * step}"} for i in range(6)] for word, step in (("a", 7), ("b", 5))
]
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def random(seed, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def adapted(base, seed=0):
    torch.manual_seed(seed)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    return get_peft_model(base, config)


# 1. to 4. The functions


def test_positions_and_penalty_by_hand():
    first = tensor([[2.0], [-1.0]]) @ tensor([[0.5, -3.0]])
    assert first.tolist() == [[1, -6], [-0.5, 3]]
    positions = top_positions(first, 0.5)
    assert sorted(positions.tolist()) == [1, 3]  # (0, 1) and (1, 1)
    penalty = product_at(tensor([[1.0], [1.0]]), tensor([[0.2, 0.4]]), positions).abs().mean()
    assert float(penalty) == pytest.approx(0.4, abs=1e-12)
    assert 2500 * float(penalty) == pytest.approx(1000)


@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([1, 5, 10**6]))
def test_gathered_products_equal_the_dense_product(seed, rank, block):
    b, a = random(seed, 9, rank).requires_grad_(), random(seed + 1, rank, 7).requires_grad_()
    mask = torch.rand(9, 7, generator=torch.Generator().manual_seed(seed)) < 0.3
    mask[0, 0] = True
    positions = mask.flatten().nonzero().flatten()
    dense = ((b @ a).abs() * mask).sum() / mask.sum()
    before = reg_lora._BLOCK
    reg_lora._BLOCK = block * rank
    try:
        gathered = product_at(b, a, positions).abs().mean()
        torch.testing.assert_close(gathered, dense, rtol=1e-12, atol=1e-12)
        for one, other in zip(torch.autograd.grad(gathered, (b, a)), torch.autograd.grad(dense, (b, a))):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    finally:
        reg_lora._BLOCK = before


def test_gradients_in_closed_form():
    b, a, k = random(0, 6, 2).requires_grad_(), random(1, 2, 5).requires_grad_(), 4
    positions = top_positions(random(2, 6, 5), k / 30)
    (product_at(b, a, positions).abs().mean()).backward()
    masked = torch.zeros(30, dtype=DOUBLE).index_fill(0, positions, 1.0).view(6, 5) * (b @ a).detach().sign()
    torch.testing.assert_close(b.grad, masked @ a.detach().T / k)
    torch.testing.assert_close(a.grad, b.detach().T @ masked / k)


def test_all_positions_are_the_plain_norm_and_none_are_no_penalty():
    b, a = random(0, 4, 2), random(1, 2, 3)
    assert float(product_at(b, a, top_positions(b @ a, 1.0)).abs().mean()) == pytest.approx(float((b @ a).abs().mean()))
    assert len(top_positions(b @ a, 0.0)) == 0 == len(top_positions(torch.zeros(4, 3), 1.0))
    assert len(top_positions(random(0, 8, 6), 0.02)) == 0, "48 entries hold no fiftieth"


# 5. The union


@given(st.lists(st.integers(0, 30), max_size=9, unique=True), st.lists(st.integers(0, 30), max_size=9, unique=True))
def test_union_is_idempotent_and_monotone(new, earlier):
    new, earlier = (torch.tensor(x, dtype=torch.int64) for x in (new, earlier))
    union = join_positions(new, earlier)
    assert set(union.tolist()) == {*new.tolist(), *earlier.tolist()} and len(union.unique()) == len(union)
    assert torch.equal(join_positions(new, union), union)
    assert len(union) >= len(new)
    assert len(join_positions(new, earlier, multiset=True)) == len(new) + len(earlier)


# The objective


@pytest.fixture(scope="module")
def language():
    base, tokenizer = tiny_llama(300, 2, 32)
    return base, CausalLM(tokenizer).roles(task=TASKS[0], other=TASKS[1])


def left_by(model, roles, objective, previous=None):
    """What a stage leaves that set the adapter's factors to noise."""
    state = objective.prepare(model, roles, "weights", previous)
    with torch.no_grad():
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return {k: v.detach().clone() for k, v in state.state_dict().items()}


def test_the_penalty_is_on_the_product_and_not_on_the_factors(language):
    base, roles = language
    objective = RegLoRA(0.1)
    previous = left_by(adapted(copy.deepcopy(base)), roles, objective)
    model = adapted(copy.deepcopy(base), seed=1)
    state = objective.prepare(model, roles, "weights", previous)
    with torch.no_grad():
        for i, (_, b) in enumerate(lora_pairs(dict(model.named_parameters())).values()):
            model.get_parameter(b).normal_(generator=torch.Generator().manual_seed(i))
    found = objective(ParameterView(model), state)
    expected = []
    for layer, (a, b) in lora_pairs(dict(model.named_parameters())).items():
        name = layer.replace(".", "/")
        earlier = [v for k, v in previous.items() if k.startswith(f"factor/{name}/")]
        old_a, old_b = earlier if earlier[0].shape[0] == 3 else earlier[::-1]
        old, new = old_b @ old_a, model.get_parameter(b) @ model.get_parameter(a)
        threshold = old.abs().flatten().sort(descending=True).values[int(0.1 * old.numel()) - 1]
        mask = old.abs() >= threshold
        assert mask.sum() == len(state.positions[layer]) == int(0.1 * old.numel())
        expected.append((new.abs() * mask).sum() / mask.sum())
    torch.testing.assert_close(found.detach(), torch.stack(expected).mean().view(1).detach(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # the same products from other factors: no penalty on factors would stay
        for a, b in lora_pairs(dict(model.named_parameters())).values():
            model.get_parameter(a).mul_(4), model.get_parameter(b).div_(4)
    torch.testing.assert_close(objective(ParameterView(model), state), found, rtol=1e-5, atol=1e-6)


def test_the_first_stage_is_bit_for_bit_that_without_a_penalty(language):
    base, roles = language
    training = Training(steps=3, batch=4, lr=1e-2)
    ends = []
    for objective in (on("task", CrossEntropy()), on("task", CrossEntropy()) + 2500 * on("weights", RegLoRA())):
        model = adapted(copy.deepcopy(base))
        result = fit(model, roles, objective, training)
        ends.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*ends))
    assert {v for _, v in result.curves["weights/reg_lora"]} == {0.0}


def test_with_no_share_of_positions_a_later_stage_is_bit_for_bit_that_without_a_penalty(language):
    """3. M = 0, after a stage that left an adapter."""
    base, roles = language
    previous = {"reg_lora": left_by(adapted(copy.deepcopy(base)), roles, RegLoRA(0.0))}
    ends = []
    for objective in (on("task", CrossEntropy()), on("task", CrossEntropy()) + 2500 * on("weights", RegLoRA(0.0))):
        model = adapted(copy.deepcopy(base))
        fit(model, roles, objective, Training(steps=3, batch=4, lr=1e-2), previous=previous)
        ends.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*ends))


def test_positions_come_from_the_adapter_as_it_was_trained_and_grow(language):
    base, roles = language
    base, training = copy.deepcopy(base), Training(steps=3, batch=4, lr=1e-2)
    states, sizes, products = {}, [], []
    for role in ("task", "other", "task"):
        model = adapted(base, seed=len(sizes))
        objective = on(role, CrossEntropy()) + 100 * on("weights", RegLoRA(0.05))
        result = fit(model, roles, objective, training, previous=states)
        a, b = (model.get_parameter(f"{LAYER}.lora_{x}.default.weight").detach() for x in "AB")
        state = RegLoRA(0.05).prepare(adapted(copy.deepcopy(base)), roles, "weights", result.states["reg_lora"])
        products.append(set(top_positions(b @ a, 0.05).tolist()))
        assert set(state.positions[LAYER].tolist()) == set.union(*products), "merging leaves nothing to rank"
        sizes.append(len(state.positions[LAYER]))
        states = result.states
        base = model.merge_and_unload().requires_grad_(True)
    assert sizes[0] == int(0.05 * 32 * 32) and sizes[0] < sizes[1] <= sizes[2]
    values = [value for _, value in result.curves["weights/reg_lora"]]
    assert values[0] == 0.0 < values[-1]


def test_the_penalty_holds_the_update_down_where_it_counts(language):
    base, roles = language
    previous = {"reg_lora": left_by(adapted(copy.deepcopy(base)), roles, RegLoRA(0.1))}
    sizes = []
    for weight in (0.0, 30.0):
        model = adapted(copy.deepcopy(base))
        objective = on("task", CrossEntropy()) + weight * on("weights", RegLoRA(0.1))
        result = fit(model, roles, objective, Training(steps=20, batch=6, lr=5e-3), previous=previous)
        sizes.append(result.curves["weights/reg_lora"][-1][1])
    assert sizes[1] < 0.2 * sizes[0]


def test_merging_changes_no_output(language):
    """6. What the adapter says is what the merged weights say."""
    base, roles = language
    model = adapted(copy.deepcopy(base))
    fit(model, roles, on("task", CrossEntropy()), Training(steps=3, batch=4, lr=1e-2))
    ids = torch.tensor([[5, 9, 70, 8]])
    with torch.no_grad():
        before = model.eval()(ids).logits
        after = model.merge_and_unload().eval()(ids).logits
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
        assert float((before - base(ids).logits).abs().max()) > 1e-3


# What is refused


def test_refusals(language):
    base, roles = language
    with pytest.raises(ValueError, match="give the stage lora"):
        RegLoRA().prepare(base, roles, "weights")
    with pytest.raises(ValueError, match="fraction is a share"):
        RegLoRA(2.0)
    model = adapted(copy.deepcopy(base))
    previous = left_by(model, roles, RegLoRA())
    with pytest.raises(ValueError, match="needs a fresh adapter in every stage"):
        RegLoRA().prepare(model, roles, "weights", previous)
    wide = {k: v.repeat_interleave(2, -1 if "lora_A" in k else 0) for k, v in previous.items()}
    with pytest.raises(ValueError, match="belong to a larger layer"):
        RegLoRA(0.5).prepare(adapted(copy.deepcopy(base)), roles, "weights", wide)
    with pytest.raises(ValueError, match="key positions are missing"):
        RegLoRA()(ParameterView(model), None)


def test_a_layer_without_positions_is_left_out_of_the_mean(language):
    base, roles = language
    previous = left_by(adapted(copy.deepcopy(base)), roles, RegLoRA())
    layers = sorted({k.partition("/lora_")[0] for k in previous})
    alone = {k: v for k, v in previous.items() if k.startswith(f"{layers[0]}/")}
    model = adapted(copy.deepcopy(base))
    state = RegLoRA().prepare(model, roles, "weights", alone)
    assert len(state.positions) == 1
    left_by(model, roles, RegLoRA())
    (layer, where), *_ = state.positions.items()
    a, b = lora_pairs(dict(model.named_parameters()))[layer]
    expected = product_at(model.get_parameter(b), model.get_parameter(a), where).abs().mean()
    torch.testing.assert_close(RegLoRA()(ParameterView(model), state), expected.view(1))
