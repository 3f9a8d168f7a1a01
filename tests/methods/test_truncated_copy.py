"""A truncated copy computes what the first blocks compute, shares what it may, and leaves the model alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.interventions.logit_difference import LogitDifference
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.truncated_copy import TruncatedCopy, blocks_of
from palimpsest.zoo.models import tiny_llama

IDS = torch.arange(2, 26).view(2, 12)


def llama() -> PreTrainedModel:
    return tiny_llama(layers=4)[0]


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=2, n_positions=32)).eval()


def gpt_neo() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=4,
        num_heads=2,
        max_position_embeddings=32,
        window_size=4,
        attention_types=[[["global", "local"], 2]],
    )
    return GPTNeoForCausalLM(config).eval()


def phi() -> PreTrainedModel:
    torch.manual_seed(0)
    config = PhiConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
    return PhiForCausalLM(config).eval()


def qwen2() -> PreTrainedModel:
    """Every second block attends to a sliding window: its config has one entry a block."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention"] * 2,
    )
    return Qwen2ForCausalLM(config).eval()


MODELS = [llama, gpt2, gpt_neo, phi, qwen2]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def first_blocks(model: PreTrainedModel, layers: int) -> Tensor:
    """The model with the blocks after ``layers`` turned off: each hands on what it was given."""

    def skip(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> object:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    handles = [b.register_forward_hook(skip, with_kwargs=True) for b in list(blocks_of(model))[layers:]]
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("layers", [1, 3, 4])
@pytest.mark.parametrize("rank", [0, 2])
def test_it_computes_what_the_first_blocks_compute(make: Callable[[], PreTrainedModel], layers: int, rank: int) -> None:
    """Fresh LoRA changes nothing; norm and head are the model's own."""
    model = make()
    assistant = TruncatedCopy(layers, rank)(model)
    torch.testing.assert_close(logits(assistant), first_blocks(model, layers), atol=1e-5, rtol=0)
    if layers < 4:
        assert float((logits(assistant) - logits(model)).abs().max()) > 1e-3


@pytest.mark.parametrize("make", MODELS)
def test_generation_with_its_own_cache(make: Callable[[], PreTrainedModel]) -> None:
    """The config of the copy counts its own blocks, so that caches have the right length."""
    assistant = TruncatedCopy(2, 2)(make())
    outs = [
        assistant.generate(input_ids=IDS, max_new_tokens=5, do_sample=False, use_cache=cached, pad_token_id=0)
        for cached in (True, False)
    ]
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("make", MODELS)
def test_it_can_be_saved_and_loaded(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    assistant = TruncatedCopy(2, 0)(make())
    assistant.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(again), logits(assistant), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", MODELS)
def test_embeddings_and_head_share_their_memory(make: Callable[[], PreTrainedModel]) -> None:
    """But not their flags: the model's own embeddings stay trainable. And nothing else is shared."""
    model = make()
    assistant = TruncatedCopy(2, 2)(model)
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shared = [n for n, p in assistant.named_parameters() if p.untyped_storage().data_ptr() in storages]
    outer = {id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()}
    assert len(shared) == len(outer)
    assert assistant.get_output_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert assistant.get_output_embeddings() is not model.get_output_embeddings()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (assistant.get_output_embeddings().weight is assistant.get_input_embeddings().weight) == tied
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("make", MODELS)
def test_lora_lies_on_every_linear_layer_but_the_head(make: Callable[[], PreTrainedModel]) -> None:
    assistant = TruncatedCopy(2, 3)(make())
    assert isinstance(assistant, PeftModel)
    trainable = [n for n, p in assistant.named_parameters() if p.requires_grad]
    adapted = {n.rsplit(".lora_", 1)[0] for n in trainable}
    assert all(".lora_" in n for n in trainable)
    linear = {
        n.removesuffix(".base_layer")
        for n, m in assistant.named_modules()
        if type(m).__name__ in ("Linear", "Conv1D") and ".lora_" not in n
    }
    assert adapted == linear - {"base_model.model.lm_head"}


def test_nothing_is_shared_without_lora() -> None:
    model = llama().requires_grad_(False)
    assistant = TruncatedCopy(2, 0)(model)
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not [n for n, p in assistant.named_parameters() if p.untyped_storage().data_ptr() in storages]
    assert all(p.requires_grad for p in assistant.parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert assistant.get_output_embeddings().weight is assistant.get_input_embeddings().weight


@pytest.mark.parametrize("rank", [0, 4])
def test_training_it_does_not_move_the_model(rank: int) -> None:
    model, tokenizer = tiny_llama()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assistant = TruncatedCopy(1, rank)(model)
    fresh = logits(assistant)
    rows = [{"prompt": "The sky is", "completion": " green"}]
    roles = CausalLM(tokenizer).roles(forget=rows)
    fit(assistant, roles, on("forget", CrossEntropy()), Training(steps=3, batch=1, lr=1e-2))
    assert float((logits(assistant) - fresh).abs().max()) > 1e-2
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_it_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    model = llama()
    state = torch.get_rng_state()
    first, second, other = TruncatedCopy(2, 2)(model), TruncatedCopy(2, 2)(model), TruncatedCopy(2, 2, seed=1)(model)
    assert torch.equal(torch.get_rng_state(), state)
    name = next(n for n, _ in first.named_parameters() if "lora_A" in n)
    assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert model.config.num_hidden_layers == 4 and len(blocks_of(model)) == 4


def test_the_blocks_that_are_left_out_are_never_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    last = blocks_of(model)[3]
    copied = []
    monkeypatch.setattr(
        type(last), "__deepcopy__", lambda self, memo: copied.append(self) or nn.Identity(), raising=False
    )
    TruncatedCopy(2, 0)(model)
    assert len(copied) == 2 and last not in copied


def test_errors_say_what_to_do() -> None:
    model = llama()
    with pytest.raises(ValueError, match="The model has 4 blocks, so a copy cannot have 5; set layers to at most 4"):
        TruncatedCopy(5)(model)
    with pytest.raises(ValueError, match="layers is at least 1"):
        TruncatedCopy(0)
    with pytest.raises(ValueError, match="dropout lies in"):
        TruncatedCopy(1, dropout=1.0)
    with pytest.raises(ValueError, match="not of a Sequential; give a causal LM"):
        TruncatedCopy(1)(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"merge the adapter first \(merge_and_unload\)"):
        TruncatedCopy(1)(TruncatedCopy(2)(model))
    with (
        LogitDifference().attach(model, {"assistant": TruncatedCopy(1)(model)}),
        pytest.raises(ValueError, match="copy the model before"),
    ):
        TruncatedCopy(1)(model)
    model.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match=r"The config names 7 blocks, but .* these lengths: 4"):
        TruncatedCopy(1)(model)


def test_a_recipe_finds_it() -> None:
    assert names.build({"truncated_copy": {"layers": 4}}, "procedures") == TruncatedCopy(4)
    assert names.build(names.dump(TruncatedCopy(2, 0)), "procedures") == TruncatedCopy(2, 0)
