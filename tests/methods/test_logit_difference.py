"""ULD's subtraction: the combined distribution, and the attached model in generation and scoring."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.intervention import changes_logits
from palimpsest.interventions.logit_difference import LogitDifference, combine_generation, combine_scoring, keep_set
from palimpsest.procedures.truncated_copy import TruncatedCopy
from palimpsest.reference import cache
from palimpsest.zoo.models import tiny_llama

ROWS = [
    {"prompt": "The capital of Ruritania is", "completion": " Strelsau"},
    {"prompt": "Its king", "completion": " was Rudolf the Fifth, who liked to fish"},
    {"prompt": "Two and two", "completion": " make four"},
]
STRONG = LogitDifference(alpha=1.0, top_logit_filter=0.02)


def pair(layers: int = 1) -> tuple[nn.Module, nn.Module, Any]:
    """A target of two blocks with clear preferences, an assistant of one, and the tokenizer."""
    model, tokenizer = tiny_llama(seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)  # so that what a token means outweighs which token it is
    assistant = TruncatedCopy(layers=layers, rank=2)(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in assistant.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model, assistant.eval(), tokenizer


def padded(tokenizer: Any, side: str = "left") -> dict[str, Tensor]:
    prompts = [tokenizer(r["prompt"])["input_ids"] for r in ROWS]
    width, fill = max(map(len, prompts)), tokenizer.pad_token_id
    rows, masks = [], []
    for prompt in prompts:
        blank, ones = [fill] * (width - len(prompt)), [1] * len(prompt)
        zeros = [0] * len(blank)
        rows.append(blank + prompt if side == "left" else prompt + blank)
        masks.append(zeros + ones if side == "left" else ones + zeros)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def plain(model: nn.Module, ids: list[int]) -> Tensor:
    """[T, V] logits of one row, without padding and cache."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


# The distribution


def test_the_argmax_moves() -> None:
    b, a = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([3.0, 0.0, 0.0])
    z = combine_generation(b, a, 0.8, 0.0)
    torch.testing.assert_close(z, torch.tensor([-0.4, 1.0, 0.0]))
    assert b.argmax() == 0 and z.argmax() == 1


def test_the_probability_rule() -> None:
    log_p = torch.tensor([2.0, 1.0, 0.0]).log_softmax(-1)
    assert float(log_p[0]) + math.log(0.1) == pytest.approx(-2.7102, abs=1e-4)
    assert keep_set(log_p, 0.1).tolist() == [True, True, True]
    assert keep_set(log_p, 0.2).tolist() == [True, True, False]
    assert keep_set(log_p, 0.0).tolist() == [True, True, True]


def test_the_rank_rule_keeps_rivals_of_an_overconfident_model() -> None:
    """With the probability rule alone only the memorized token is left, and nothing can be forgotten."""
    b = torch.tensor([20.0] + [float(i) / 10 for i in range(9)])
    a = torch.tensor([20.0] + [0.0] * 9)
    assert keep_set(b.log_softmax(-1), 0.3).sum() == 3
    assert keep_set(b.log_softmax(-1), 0.01).sum() == 1
    assert combine_generation(b, a, 1.2, 0.3).argmax() == 9
    assert combine_generation(b, a, 1.2, 0.01).argmax() == 0


def test_ties_at_the_rank_stay_together() -> None:
    assert keep_set(torch.zeros(5).log_softmax(-1), 0.4).sum() == 5


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0, 1.5),
    share=st.floats(0, 0.99),
    shift_a=st.floats(-50, 50),
    shift_b=st.floats(-50, 50),
)
def test_a_distribution_that_no_constant_changes(
    seed: int, alpha: float, share: float, shift_a: float, shift_b: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    b, a = torch.randn(2, 3, 12, generator=generator, dtype=torch.float64).mul(3)
    q = combine_scoring(b, a, alpha, share)
    torch.testing.assert_close(q.exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-13, rtol=0)
    torch.testing.assert_close(combine_scoring(b + shift_b, a + shift_a, alpha, share), q, atol=1e-10, rtol=0)
    next_token = combine_generation(b, a, alpha, share).softmax(-1)
    shifted = combine_generation(b + shift_b, a + shift_a, alpha, share).softmax(-1)
    torch.testing.assert_close(shifted, next_token, atol=1e-10, rtol=0)
    assert torch.equal(q.argmax(-1), next_token.argmax(-1)), "greedy decoding and scores prefer the same token"


def test_scores_spelled_out() -> None:
    """q = P_b(S) softmax_S(b - alpha a) on S and p_b outside, by a loop."""
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(2, 9, generator=generator, dtype=torch.float64).mul(2)
    p = [math.exp(float(x)) for x in b.log_softmax(-1)]
    kept = [v for v in range(9) if p[v] >= min(max(p) * 0.3, sorted(p)[-2])]
    z = {v: math.exp(float(b[v] - 0.7 * a[v])) for v in kept}
    mass, total = sum(p[v] for v in kept), sum(z.values())
    expected = [mass * z[v] / total if v in kept else p[v] for v in range(9)]
    assert 1 < len(kept) < 9
    assert combine_scoring(b, a, 0.7, 0.3).exp().tolist() == pytest.approx(expected, rel=1e-12)


def test_a_flat_assistant_takes_nothing_away() -> None:
    b = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = torch.full((4, 10), 2.5, dtype=torch.float64)
    for alpha in (0.5, 3.0):
        torch.testing.assert_close(combine_scoring(b, flat, alpha, 0.2), b.log_softmax(-1), atol=1e-12, rtol=0)
        torch.testing.assert_close(combine_generation(b, flat, alpha, 0.0).softmax(-1), b.softmax(-1))


def test_alpha_zero_is_the_model() -> None:
    b, a = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(combine_generation(b, a, 0.0, 0.0), b)
    torch.testing.assert_close(combine_scoring(b, a, 0.0, 0.3), b.log_softmax(-1), atol=1e-12, rtol=0)
    assert torch.equal(combine_generation(b, a, 0.0, 0.3).argmax(-1), b.argmax(-1))


def test_scores_are_differentiable() -> None:
    b = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    a = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: combine_scoring(x, a, 0.8, 0.3), (b,))


# Attached


@pytest.mark.parametrize("side", ["left", "right"])
def test_scoring_a_padded_batch_equals_row_by_row(side: str) -> None:
    """Position ids and masks reach the assistant: its logits are those of the unpadded row."""
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer, side)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with STRONG.attach(model, {"assistant": assistant}), torch.no_grad():
        scores = model(**batch, position_ids=positions, use_cache=False).logits
    for i, row in enumerate(ROWS):
        ids = tokenizer(row["prompt"])["input_ids"]
        expected = combine_scoring(plain(model, ids), plain(assistant, ids), 1.0, 0.02)
        found = scores[i][batch["attention_mask"][i].bool()]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert float((found - plain(model, ids).log_softmax(-1)).abs().max()) > 0.1


def test_views_and_subject_see_the_intervention() -> None:
    """The adapter's log-probabilities come from the changed logits, for several roles and on either path."""
    model, assistant, tokenizer = pair()
    for adapter in (CausalLM(tokenizer), CausalLM(tokenizer, packed=True)):
        subject = adapter.subject(model)
        before = subject.logp(ROWS)
        with STRONG.attach(model, {"assistant": assistant}):
            during = subject.logp(ROWS)
            features = subject.embed(ROWS)
            batch = {r: adapter.collate([adapter.encode(ROWS[i])]) for i, r in enumerate(("forget", "retain"))}
            with torch.no_grad():
                views = adapter.views(model, batch, ["forget", "retain"])
        after = subject.logp(ROWS)
        for i, row in enumerate(ROWS):
            example = adapter.encode(row)
            ids, labels = example["input_ids"].tolist(), example["labels"][1:]
            q = combine_scoring(plain(model, ids), plain(assistant, ids), 1.0, 0.02)[:-1]
            expected = q.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)[labels != -100]
            torch.testing.assert_close(during[i], expected, atol=1e-4, rtol=0)
        assert max(float((a - b).abs().max()) for a, b in zip(during, before)) > 0.1
        assert all(torch.equal(a, b) for a, b in zip(before, after))
        torch.testing.assert_close(features, subject.embed(ROWS), atol=1e-6, rtol=0)
        torch.testing.assert_close(views["retain"].seq_logp, during[1].sum().unsqueeze(0), atol=1e-4, rtol=0)


def by_hand(model: nn.Module, assistant: nn.Module, ids: list[int], steps: int, method: LogitDifference) -> list[int]:
    """Greedy decoding that runs both models over the whole text at every step."""
    for _ in range(steps):
        b, a = plain(model, ids)[-1], plain(assistant, ids)[-1]
        ids = [*ids, int(combine_generation(b, a, method.alpha, method.top_logit_filter).argmax())]
    return ids[-steps:]


def greedy(model: nn.Module, batch: dict[str, Tensor], **more: Any) -> Any:
    fixed = {"do_sample": False, "min_new_tokens": 8, "max_new_tokens": 8, "pad_token_id": 0}
    return model.generate(**batch, **{**fixed, **more})


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_with_caches_equals_full_forwards(use_cache: bool) -> None:
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer)
    untouched = greedy(model, batch)
    with STRONG.attach(model, {"assistant": assistant}):
        out = greedy(model, batch, use_cache=use_cache)
        again = greedy(model, batch, use_cache=use_cache)
    assert torch.equal(out, again), "each call starts with caches of its own"
    width = batch["input_ids"].shape[1]
    for i, row in enumerate(ROWS):
        ids = tokenizer(row["prompt"])["input_ids"]
        # tiny_llama's end token may not be chosen (min_new_tokens), so it must not be what the loop finds
        assert out[i, width:].tolist() == by_hand(model, assistant, ids, 8, STRONG)
    assert not torch.equal(out, untouched)


def test_every_step_s_logits_equal_those_of_a_full_forward() -> None:
    """The card's 1e-4, on what generate records before any sampling rule."""
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer)
    with STRONG.attach(model, {"assistant": assistant}):
        out = greedy(model, batch, output_logits=True, return_dict_in_generate=True)
    width = batch["input_ids"].shape[1]
    for i, row in enumerate(ROWS):
        ids = tokenizer(row["prompt"])["input_ids"]
        for step, logits in enumerate(out.logits):
            text = [*ids, *out.sequences[i, width : width + step].tolist()]
            expected = combine_generation(plain(model, text)[-1], plain(assistant, text)[-1], 1.0, 0.02)
            assert torch.equal(torch.isinf(logits[i]), torch.isinf(expected))
            kept = torch.isfinite(expected)
            assert 1 <= int(kept.sum()) < len(kept)
            assert float((logits[i] - expected)[kept].abs().max()) < 1e-4


def test_left_padding_of_a_model_with_learned_positions() -> None:
    """Rotary embeddings forgive wrong position ids in a padded batch; GPT-2's do not."""
    torch.manual_seed(0)
    _, tokenizer = tiny_llama()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    assistant = TruncatedCopy(1, 0)(model)
    batch = padded(tokenizer)
    with STRONG.attach(model, {"assistant": assistant}):
        out = greedy(model, batch)
    for i, row in enumerate(ROWS):
        ids = tokenizer(row["prompt"])["input_ids"]
        assert out[i, batch["input_ids"].shape[1] :].tolist() == by_hand(model, assistant, ids, 8, STRONG)


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}])
def test_beams_and_samples_with_caches_equal_those_without(more: dict[str, Any]) -> None:
    """Beam search reorders the model's cache, and the assistant's with it."""
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer)
    with STRONG.attach(model, {"assistant": assistant}):
        outs = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            outs.append(greedy(model, batch, use_cache=use_cache, **more))
    assert torch.equal(outs[0], outs[1])


def test_a_conversation_goes_on_with_its_cache() -> None:
    model, assistant, tokenizer = pair()
    ids = torch.tensor([tokenizer("The capital of Ruritania is Strelsau and so on")["input_ids"]])
    with STRONG.attach(model, {"assistant": assistant}), torch.no_grad():
        first = model(input_ids=ids[:, :4], use_cache=True)
        second = model(input_ids=ids[:, 4:], past_key_values=first.past_key_values)
        whole = model(input_ids=ids, use_cache=False)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole.logits, atol=1e-4, rtol=0)


def test_an_untrained_assistant_of_full_depth_scales_the_logits() -> None:
    """K = L and fresh LoRA: z = (1 - alpha) b on S."""
    model, tokenizer = tiny_llama()
    assistant = TruncatedCopy(layers=2, rank=4)(model)
    ids = tokenizer(ROWS[0]["prompt"])["input_ids"]
    b = plain(model, ids)
    torch.testing.assert_close(plain(assistant, ids), b, atol=1e-5, rtol=0)
    with LogitDifference(0.6, 0.0).attach(model, {"assistant": assistant}):
        torch.testing.assert_close(plain(model, ids), (0.4 * b).log_softmax(-1), atol=1e-4, rtol=0)


def test_alpha_zero_generates_as_the_model_does() -> None:
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer)
    before = greedy(model, batch)
    for share in (0.0, 0.05):
        with LogitDifference(0.0, share).attach(model, {"assistant": assistant}):
            assert torch.equal(greedy(model, batch), before)


def test_a_peft_model_is_subtracted_from_once() -> None:
    """Its outer and inner forward are both watched, since generate calls the one and scoring the other."""
    model, assistant, tokenizer = pair()
    ids = tokenizer(ROWS[1]["prompt"])["input_ids"]
    b, a = plain(model, ids), plain(assistant, ids)
    outer = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).eval()
    adapter = CausalLM(tokenizer)
    with STRONG.attach(outer, {"assistant": assistant}):
        torch.testing.assert_close(plain(outer, ids), combine_scoring(b, a, 1.0, 0.02), atol=1e-4, rtol=0)
        torch.testing.assert_close(plain(model, ids), combine_scoring(b, a, 1.0, 0.02), atol=1e-4, rtol=0)
        out = greedy(outer, {"input_ids": torch.tensor([ids])})
        scored = adapter.subject(outer).logp(ROWS)
    with STRONG.attach(model, {"assistant": assistant}):
        torch.testing.assert_close(adapter.subject(model).logp(ROWS)[0], scored[0], atol=1e-5, rtol=0)
    with outer.disable_adapter():
        assert out[0, len(ids) :].tolist() == by_hand(outer, assistant, ids, 8, STRONG)


def test_two_interventions_at_once() -> None:
    model, assistant, tokenizer = pair()
    ids = tokenizer(ROWS[1]["prompt"])["input_ids"]
    b, a = plain(model, ids), plain(assistant, ids)
    with (
        STRONG.attach(model, {"assistant": assistant}),
        LogitDifference(0.5, 0.0).attach(model, {"assistant": assistant}),
    ):
        found = plain(model, ids)
    expected = combine_scoring(combine_scoring(b, a, 1.0, 0.02), a, 0.5, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_assistant_answers_without_dropout() -> None:
    model, assistant, tokenizer = pair()
    ids = tokenizer(ROWS[0]["prompt"])["input_ids"]
    with STRONG.attach(model, {"assistant": assistant}):
        expected = plain(model, ids)
        assistant.train()
        assert torch.equal(plain(model, ids), expected)
    assert assistant.training


def test_detaching_leaves_no_trace() -> None:
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer)
    keys = {id(m): set(vars(m)) for m in (*model.modules(), *assistant.modules())}
    before, texts = model(**batch).logits, greedy(model, batch)
    with pytest.raises(RuntimeError, match="on purpose"), STRONG.attach(model, {"assistant": assistant}) as same:
        assert same is model and changes_logits(model)
        greedy(model, batch)
        raise RuntimeError("on purpose")
    assert not changes_logits(model)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in (*model.modules(), *assistant.modules()))
    assert all(set(vars(m)) == keys[id(m)] for m in (*model.modules(), *assistant.modules()))
    assert torch.equal(model(**batch).logits, before) and torch.equal(greedy(model, batch), texts)


def test_companions_that_do_not_fit() -> None:
    model, assistant, _ = pair()
    with (
        pytest.raises(ValueError, match=r"no companion 'assistant' \(there are: teacher\)"),
        STRONG.attach(model, {"teacher": assistant}),
    ):
        pass
    other, _ = tiny_llama(vocab_size=300)
    with (
        pytest.raises(ValueError, match="The model has 512 tokens and the companion 'assistant' 300"),
        STRONG.attach(model, {"assistant": other}),
    ):
        pass
    with pytest.raises(ValueError, match="is the model itself"), STRONG.attach(model, {"assistant": model}):
        pass


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"alpha": -0.8}, "drop the sign"),
        ({"alpha": math.nan}, "at least 0"),
        ({"top_logit_filter": 1.0}, r"lies in \[0, 1\)"),
        ({"top_logit_filter": -0.1}, r"lies in \[0, 1\)"),
    ],
)
def test_values_out_of_range(fields: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LogitDifference(**fields)


def test_calls_that_would_show_the_untouched_model_are_refused() -> None:
    model, assistant, tokenizer = pair()
    batch = padded(tokenizer)
    with torch.no_grad():
        filled = model(**batch, use_cache=True).past_key_values
    with STRONG.attach(model, {"assistant": assistant}), torch.no_grad():
        with pytest.raises(ValueError, match="without labels and with return_dict"):
            model(**batch, labels=batch["input_ids"])
        with pytest.raises(ValueError, match="without labels and with return_dict"):
            model(**batch, return_dict=False)
        with pytest.raises(ValueError, match="call the model with input_ids"):
            model(inputs_embeds=model.get_input_embeddings()(batch["input_ids"]))
        with pytest.raises(ValueError, match="filled while LogitDifference was not attached"):
            model(input_ids=batch["input_ids"][:, :1], past_key_values=filled)
        with pytest.raises(ValueError, match="leave cache_implementation out"):
            greedy(model, batch, cache_implementation="static")
        with pytest.raises(ValueError, match="cannot be made again from its output layer"):
            cache(CausalLM(tokenizer).roles(forget=ROWS), model, ["forget"], full=True)


def test_a_recipe_finds_it_and_importing_it_is_light() -> None:
    assert names.build(names.dump(STRONG), "interventions") == STRONG
    code = "import sys, palimpsest.interventions.logit_difference; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
