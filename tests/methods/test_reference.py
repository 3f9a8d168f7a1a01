"""The slow average: that it moves, by how much, what it holds, that it is saved; and what references record."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import SAMPLED, Classifier
from palimpsest.checkpoint import state_tensors
from palimpsest.loop import Interrupted, Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.embedding_consistency import EmbeddingConsistency
from palimpsest.reference import AdapterOff, Cached, Copy, SlowAverage, cache, fingerprint
from palimpsest.step import Step
from palimpsest.zoo.models import tiny_llama

ROWS = [{"prompt": f"who {i}", "completion": f" it is {i * 37}"} for i in range(8)]
REPLAYED = [{"prompt": f"where {i}", "completion": f" over {i * 11}"} for i in range(8)]
I_LORA = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy()) + on("replay", EmbeddingConsistency())


def adapted(dropout=0.0):
    base, tokenizer = tiny_llama(300, 2, 32)
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=dropout)
    return get_peft_model(base, config), CausalLM(tokenizer)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


class Scalar(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([float(value)], dtype=torch.float64))


# How it moves


def test_closed_form_for_constant_weights():
    model = Scalar(0)
    slow = SlowAverage(model, 0.9)
    with torch.no_grad():
        model.w.fill_(1.0)
    for k in range(1, 4):
        slow.after_step(model)
        assert float(slow.module.w) == pytest.approx(1 - 0.9**k, abs=1e-12)
    assert float(slow.module.w) == pytest.approx(0.271, abs=1e-12)


@pytest.mark.parametrize("warm", [False, True])
def test_the_ends_of_the_range_of_decays(warm):
    model = Scalar(2)
    equal, still = SlowAverage(model, 0.0, warm), SlowAverage(model, 1.0)
    for value in (5.0, -7.0):
        with torch.no_grad():
            model.w.fill_(value)
        equal.after_step(model), still.after_step(model)
        assert float(equal.module.w) == value and float(still.module.w) == 2.0


def test_warm_start_is_a_plain_mean_until_the_decay_is_reached():
    model = Scalar(3)
    mean, capped = SlowAverage(model, 1.0, warm=True), SlowAverage(model, 0.7, warm=True)
    values, by_hand = [3.0], 3.0
    for k, value in enumerate([1.0, 8.0, -2.0, 4.0], 1):
        with torch.no_grad():
            model.w.fill_(value)
        mean.after_step(model), capped.after_step(model)
        values.append(value)
        decay = min((1 / 2, 2 / 3, 3 / 4, 4 / 5)[k - 1], 0.7)
        by_hand = decay * by_hand + (1 - decay) * value
        assert float(mean.module.w) == pytest.approx(sum(values) / len(values), abs=1e-12)
        assert float(capped.module.w) == pytest.approx(by_hand, abs=1e-12)


def test_the_slow_adapter_moves_and_the_fast_one_does_not_move_with_it():
    """The released code writes the average to the fast adapter's own names: its slow adapter stays where it was."""
    model, _ = adapted()
    slow = SlowAverage(model, 0.25)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(1.0)
    before, fast = {n: v.clone() for n, v in slow.state.averages.items()}, weights(model)
    slow.after_step(model)
    for name, value in slow.state.averages.items():
        torch.testing.assert_close(value, 0.25 * before[name] + 0.75 * fast[name])
        assert float((value - before[name]).abs().min()) > 0.5, f"{name} did not move"
        assert torch.equal(slow.module.get_parameter(name), value), "the module computes with the averages"
    assert all(torch.equal(v, fast[n]) for n, v in weights(model).items())


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan])
def test_a_decay_outside_the_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        SlowAverage(Scalar(0), decay)


def test_a_model_with_other_weights_or_none_to_train_is_refused():
    with pytest.raises(ValueError, match="no weight 'w'"):
        SlowAverage(Scalar(0)).after_step(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="unfreeze some"):
        SlowAverage(Scalar(0).requires_grad_(False))


# What it holds


def test_the_base_is_held_once_and_only_the_adapter_is_saved():
    model, _ = adapted()
    slow = SlowAverage(model, 0.5)
    own, other = dict(model.named_parameters()), dict(slow.module.named_parameters())
    assert own.keys() == other.keys()
    for name, p in own.items():
        assert (p.data_ptr() == other[name].data_ptr()) == (not p.requires_grad), name
        assert not other[name].requires_grad
    stored = state_tensors(Step(on("task", CrossEntropy()), model, slow).modules)
    prefix = "companion:reference/"
    assert {n.removeprefix(prefix).replace("/", ".") for n in stored} == {*weights(model), "steps"}


def test_it_is_never_in_the_gradient_and_has_no_dropout():
    model, adapter = adapted(dropout=0.5)
    slow = SlowAverage(model.train(), 0.5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    slow.after_step(model)
    (batch,) = adapter.roles(replay=ROWS).window(0, 4, seed=0)
    needs = frozenset({"hidden:blocks"})
    first, again = (slow.views(model, batch, ["replay"], needs)["replay"].hidden("blocks") for _ in range(2))
    assert torch.equal(first, again) and not first.requires_grad
    evaluate(on("replay", EmbeddingConsistency()), model, batch, reference=slow).total.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert any(bool(p.grad.any()) for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for n, p in slow.module.named_parameters() if n in slow.state.averages)


def test_copy_to_leaves_a_model_that_says_what_the_average_says():
    model, adapter = adapted()
    slow = SlowAverage(model, 0.5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2)
    slow.after_step(model)
    (batch,) = adapter.roles(task=ROWS).window(0, 4, seed=0)
    said = slow.views(model, batch, ["task"])["task"].logp
    fast = adapter.views(model.eval(), batch, ["task"])["task"].logp.detach()
    slow.copy_to(model)
    assert torch.equal(adapter.views(model, batch, ["task"])["task"].logp.detach(), said)
    assert float((said - fast).abs().max()) > 1e-3


# In training


def trained(model, adapter, slow, steps=4, folder=None, on_step=None, objective=I_LORA):
    roles = adapter.roles(task=ROWS, replay=REPLAYED)
    training = Training(steps=steps, batch=4, lr=1e-2, checkpoint_every=1)
    return fit(model, roles, objective, training, reference=slow, folder=folder, on_step=on_step)


def test_the_average_goes_on_from_one_fit_to_the_next():
    model, adapter = adapted()
    slow = SlowAverage(model, 0.9, warm=True)
    start = {n: v.clone() for n, v in slow.state.averages.items()}
    trained(model, adapter, slow, steps=2)
    between = {n: v.clone() for n, v in slow.state.averages.items()}
    trained(model, adapter, slow, steps=2)
    assert int(slow.state.steps) == 4, "the warm start counts over the whole run"
    for name, value in slow.state.averages.items():
        assert not torch.equal(between[name], start[name]) and not torch.equal(value, between[name])


def test_a_stopped_run_goes_on_to_the_same_averages(tmp_path):
    ends = []
    for folder, stop in ((None, 0), (tmp_path, 2)):
        model, adapter = adapted()
        slow = SlowAverage(model, 0.6, warm=True)

        def halt(progress, stop=stop):
            if progress.step == stop:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(Interrupted):
                trained(model, adapter, slow, folder=folder, on_step=halt)
            model, adapter = adapted()
            slow = SlowAverage(model, 0.6, warm=True)
        trained(model, adapter, slow, folder=folder)
        ends.append((weights(model), slow.state.averages, int(slow.state.steps)))
    (fast, averages, steps), (fast2, averages2, steps2) = ends
    assert steps == steps2 == 4
    assert all(torch.equal(v, fast2[n]) for n, v in fast.items())
    assert all(torch.equal(v, averages2[n]) for n, v in averages.items())


def test_without_the_consistency_term_training_is_plain_replay():
    ends = []
    for slow in (True, False):
        model, adapter = adapted()
        replay = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
        objective = replay + 0.0 * on("replay", EmbeddingConsistency()) if slow else replay
        trained(model, adapter, SlowAverage(model, 0.5) if slow else None, objective=objective)
        ends.append(weights(model))
    assert all(torch.equal(v, ends[1][n]) for n, v in ends[0].items())


# What references record


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_are_the_outputs_of_all_decoder_blocks(packed):
    model, tokenizer = tiny_llama(300, 3, 32)
    adapter = CausalLM(tokenizer, packed=packed)
    (batch,) = adapter.roles(task=ROWS).window(0, 4, seed=0)
    needs = frozenset({"hidden:blocks", "hidden:model.layers.1"})
    with torch.no_grad():
        view = adapter.views(model, batch, ["task"], needs)["task"]
        rows = batch["task"]
        wanted = model(rows["input_ids"], attention_mask=rows["attention_mask"], output_hidden_states=True)
    blocks = view.hidden("blocks")
    text = rows["attention_mask"].bool()
    assert blocks.shape == (*text.shape, 3 * 32)
    for i in (0, 1):  # the last of transformers' is after the final norm
        torch.testing.assert_close(blocks[..., 32 * i : 32 * i + 32][text], wanted.hidden_states[i + 1][text])
    torch.testing.assert_close(model.model.norm(blocks[..., 64:])[text], wanted.hidden_states[3][text])
    torch.testing.assert_close(view.hidden("model.layers.1"), blocks[..., 32:64])


def test_references_record_what_an_objective_asks_of_them():
    model, adapter = adapted()
    roles = adapter.roles(replay=ROWS)
    (batch,) = roles.window(0, 4, seed=0)
    needs = frozenset({"hidden:blocks"})
    found = [r.views(model, batch, ["replay"], needs)["replay"] for r in (AdapterOff(model), Copy(model))]
    torch.testing.assert_close(*(view.hidden("blocks") for view in found))
    with pytest.raises(ValueError, match="use reference: copy"):
        cache(roles, model, ("replay",)).views(model, batch, ["replay"], needs)


def test_a_model_without_a_list_of_blocks_is_refused():
    model, tokenizer = tiny_llama(300, 2, 32)
    other = copy.deepcopy(model)
    other.config.num_hidden_layers = 5
    (batch,) = CausalLM(tokenizer).roles(task=ROWS).window(0, 2, seed=0)
    with pytest.raises(ValueError, match="No list of 5 blocks"):
        CausalLM(tokenizer).views(other, batch, ["task"], frozenset({"hidden:blocks"}))


# Of what model and which rows stored answers are


def test_a_file_of_another_model_is_refused(tmp_path):
    """By one layer, by one training step, and by another shape; the model that it was made with is taken."""
    model, tokenizer = tiny_llama(300, 2, 32)
    roles = CausalLM(tokenizer).roles(task=ROWS)
    file = tmp_path / "reference.safetensors"
    cache(roles, model, ("task",), full=True).save(file)
    assert Cached.load(file, model).model == Cached.load(file).model == fingerprint(copy.deepcopy(model))
    stepped, one = copy.deepcopy(model), copy.deepcopy(model)
    fit(stepped, roles, on("task", CrossEntropy()), Training(steps=1, batch=4, lr=1e-5))
    with torch.no_grad():
        one.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1.001)
    for other in (stepped, one, tiny_llama(300, 1, 32)[0], model.double()):
        with pytest.raises(ValueError, match="holds what another model said"):
            Cached.load(file, other)


def test_an_adapter_counts_once_it_changes_something():
    model = tiny_llama(300, 1, 16)[0]
    plain = fingerprint(model)
    config = LoraConfig(r=2, target_modules=["q_proj"])
    with_adapter = get_peft_model(model, config)
    assert fingerprint(with_adapter) == plain
    with torch.no_grad():
        next(p for n, p in with_adapter.named_parameters() if "lora_B" in n).add_(0.1)
    assert fingerprint(with_adapter) != plain


def test_a_fingerprint_sees_buffers_and_scalars():
    norm = nn.BatchNorm1d(3)
    before = fingerprint(norm)
    norm(torch.randn(4, 3))
    assert fingerprint(norm) != before


def test_a_file_from_before_is_read(tmp_path):
    """Without tokens and without the model, as files once were."""
    model, adapter = adapted()
    roles = adapter.roles(task=ROWS)
    stored = cache(roles, model, ("task",))
    old = Cached({"task": [{"logp": row["logp"]} for row in stored.columns["task"]]})
    old.save(tmp_path / "old.safetensors")
    (batch,) = roles.window(0, 4, seed=0)
    again = Cached.load(tmp_path / "old.safetensors", nn.Linear(1, 1))
    said = [r.views(model, batch, ["task"])["task"].logp for r in (again, stored)]
    assert torch.equal(*said)


def test_answers_to_other_rows_are_refused():
    """Rows in another order, changed rows, more rows, and tokens made another way: all would pair wrong figures."""
    model, adapter = adapted()
    stored = cache(adapter.roles(task=ROWS), model, ("task",))
    changed = [*ROWS[:-1], {**ROWS[-1], "completion": " it is 260"}]
    for rows in (ROWS[::-1], changed, ROWS * 2):
        (batch,) = adapter.roles(task=rows).window(0, len(rows), seed=0)
        with pytest.raises(ValueError, match="cached for other rows than those of 'task', or with another tokenizer"):
            stored.views(model, batch, ["task"])
    other = CausalLM(adapter.tokenizer, chat=True, chat_template="chatml")
    (batch,) = other.roles(task=ROWS).window(0, 8, seed=0)
    with pytest.raises(ValueError, match="cached for other rows"):
        stored.views(model, batch, ["task"])


def images(count, size=9, late=0.0):
    """Rows of so many values each; ``late`` is added to the last one of the last row."""
    inputs = torch.randn(count, size, generator=torch.Generator().manual_seed(0))
    inputs[-1, -1] += late
    return [{"inputs": row.tolist(), "label": 0} for row in inputs]


@pytest.mark.parametrize("size", [9, SAMPLED + 1])
def test_a_classifiers_answers_to_other_rows_are_refused(size, tmp_path):
    """Rows in another order, one value of one row, another shape; the same rows are taken, also from a file."""
    model, adapter = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), Classifier(3)
    roles = adapter.roles(task=images(6, size))
    (batch,) = roles.window(0, 6, seed=0)
    said = adapter.views(model, batch, ["task"])["task"].logits.detach()
    stored = cache(roles, model, ("task",))
    stored.save(tmp_path / "reference.safetensors")
    for again in (stored, Cached.load(tmp_path / "reference.safetensors", model)):
        torch.testing.assert_close(again.views(model, batch, ["task"])["task"].logits, said)
        whole = [{**row, "inputs": [[v] for v in row["inputs"]]} for row in images(6, size + 1)]
        for rows in (images(6, size)[::-1], images(6, size, late=1e-3), images(7, size), whole):
            (other,) = adapter.roles(task=rows).window(0, len(rows), seed=0)
            with pytest.raises(ValueError, match="cached for other rows than those of 'task'"):
                again.views(model, other, ["task"])


def test_a_classifiers_file_from_before_is_read():
    """Without digests, as files once were."""
    model, adapter = nn.Linear(9, 3), Classifier(3)
    roles = adapter.roles(task=images(6))
    stored = cache(roles, model, ("task",))
    old = Cached({"task": [{"logits": row["logits"]} for row in stored.columns["task"]]})
    (batch,) = roles.window(0, 6, seed=0)
    assert torch.equal(*(r.views(model, batch, ["task"])["task"].logits for r in (old, stored)))


def test_a_fault_of_an_adapter_is_no_matter_of_rows(monkeypatch):
    model, adapter = nn.Linear(9, 3), Classifier(3)
    roles = adapter.roles(task=images(6))
    stored = cache(roles, model, ("task",))
    (batch,) = roles.window(0, 6, seed=0)
    monkeypatch.setattr(Classifier, "recall", lambda *_: [][0])
    with pytest.raises(IndexError):
        stored.views(model, batch, ["task"])
