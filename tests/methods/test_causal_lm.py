"""The language-model adapter: what is scored, padding, packing, and that log-probabilities need no logits."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.rows_to_tokens import CHATML
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.views import TokenView
from palimpsest.zoo.models import tiny_llama

ROWS = [
    {"prompt": "Who? ", "completion": "Ada."},
    {"prompt": "And what else is there? ", "completion": "Nothing at all."},
    {"text": "plain words"},
]


@pytest.fixture(scope="module")
def tiny() -> tuple:
    return tiny_llama()


def test_only_the_completion_is_scored_and_ends_the_turn(tiny: tuple) -> None:
    _, tokenizer = tiny
    example = CausalLM(tokenizer).encode(ROWS[0])
    scored = example["input_ids"][example["labels"] != -100]
    assert tokenizer.decode(scored[:-1]) == "Ada."
    assert scored[-1] == tokenizer.eos_token_id
    text = CausalLM(tokenizer).encode(ROWS[2])
    assert int((text["labels"] == -100).sum()) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_text_ends_with_the_end_token_where_that_is_asked_for(tiny: tuple, packed: bool) -> None:
    model, tokenizer = tiny
    plain, ended = (CausalLM(tokenizer, packed=packed, end_of_text=end) for end in (False, True))
    example = ended.encode(ROWS[2])
    assert example["input_ids"].tolist() == [*plain.encode(ROWS[2])["input_ids"].tolist(), tokenizer.eos_token_id]
    assert example["labels"][-1] == tokenizer.eos_token_id
    asked = [*ROWS, {"text": "more of plain words"}]
    for row, whole, own in zip(asked, ended.subject(model).logp(asked), plain.subject(model).logp(asked), strict=True):
        torch.testing.assert_close(whole, naive(model, ended.encode(row)), atol=1e-5, rtol=1e-5)
        assert len(whole) - len(own) == ("text" in row), "a completion has its end token anyway"
    batch = ended.collate([ended.encode(row) for row in asked])
    assert ended.count(batch, "token") == plain.count(plain.collate([plain.encode(r) for r in asked]), "token") + 2


def test_the_end_token_is_written_once_and_counts_as_length(tiny: tuple) -> None:
    tokenizer = copy.deepcopy(tiny[1])
    long = CausalLM(tokenizer, max_length=len(CausalLM(tokenizer).encode(ROWS[2])["input_ids"]), end_of_text=True)
    with pytest.raises(ValueError, match=r"row has .* tokens, but max_length is"):
        long.encode(ROWS[2])
    said = {"text": f"plain words{tokenizer.eos_token}"}
    ids = CausalLM(tokenizer, end_of_text=True).encode(said)["input_ids"].tolist()
    assert ids.count(tokenizer.eos_token_id) == 1 == ids[::-1].index(tokenizer.eos_token_id) + 1
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end_of_text: this tokenizer has no end token; give it one"):
        CausalLM(tokenizer, end_of_text=True)


def test_chatml_has_no_default_system_prompt_and_prompts_agree(tiny: tuple) -> None:
    _, tokenizer = tiny
    adapter = CausalLM(tokenizer, chat=True, chat_template="chatml")
    ids = adapter.encode(ROWS[0])["input_ids"].tolist()
    assert tokenizer.decode(ids).startswith("<|im_start|>user\nWho? <|im_end|>\n<|im_start|>assistant\nAda.")
    prompt = adapter.prompt(ROWS[0])
    assert ids[: len(prompt)] == prompt
    messages = [{"role": "user", "content": "Who? "}, {"role": "assistant", "content": "Ada."}]
    as_messages = CausalLM(tokenizer, chat_template=CHATML).encode({"messages": messages})
    assert as_messages["input_ids"].tolist() == ids


def test_a_written_config_carries_the_template_that_was_trained_with(tiny: tuple, tmp_path: Path) -> None:
    """And the model it belongs to stays as it is."""
    model, tokenizer = tiny
    own, dtype = tokenizer.chat_template, model.config.dtype
    model.generation_config.temperature = 0.5  # without sampling, which save_pretrained refuses
    CausalLM(tokenizer, chat=True, chat_template="{{ messages[0].content }}").write_config(model, tmp_path)
    model.generation_config.temperature = None
    written = AutoTokenizer.from_pretrained(tmp_path)
    assert written.chat_template == "{{ messages[0].content }}" and tokenizer.chat_template == own
    assert written("Ada Wick.")["input_ids"] == tokenizer("Ada Wick.")["input_ids"]
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures == ["LlamaForCausalLM"] and config.dtype == torch.float32
    assert model.config.dtype == dtype
    CausalLM(tokenizer).write_config(model, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == own


def naive(model: torch.nn.Module, example: dict[str, Tensor]) -> Tensor:
    """log p of the scored tokens of one row, from transformers' own logits."""
    with torch.no_grad():
        logp = model(example["input_ids"][None]).logits[0].log_softmax(-1)
    targets = example["labels"][1:]
    picked = logp[:-1].gather(-1, targets.clamp_min(0)[:, None])[:, 0]
    return picked[targets != -100]


@pytest.mark.parametrize("packed", [False, True])
def test_logp_is_that_of_the_model_row_by_row(tiny: tuple, packed: bool) -> None:
    model, tokenizer = tiny
    adapter = CausalLM(tokenizer, packed=packed)
    for row, found in zip(ROWS, adapter.subject(model).logp(ROWS)):
        torch.testing.assert_close(found, naive(model, adapter.encode(row)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_all_roles_go_through_one_forward(tiny: tuple, packed: bool) -> None:
    """Three roles of different lengths, one of them under two terms, and what each says is as if it were alone."""
    model, adapter = tiny[0], CausalLM(tiny[1], packed=packed)
    roles = adapter.roles(**{name: [row] for name, row in zip(("a", "b", "c"), ROWS)})
    (batch,) = roles.window(0, 1, seed=0)
    calls: list[int] = []
    handle = model.model.register_forward_hook(lambda *_: calls.append(1))
    likely = CrossEntropy()
    try:
        total = on("a", likely) + on("b", likely) + 0.5 * on("a", likely) + on("c", likely)
        losses = evaluate(total, model, batch)
    finally:
        handle.remove()
    assert len(calls) == 1
    alone = [float(evaluate(on(role, likely), model, batch).total.detach()) for role in ("a", "b", "c")]
    assert float(losses.total.detach()) == pytest.approx(1.5 * alone[0] + alone[1] + alone[2], rel=1e-5)


def test_left_padding_changes_nothing(tiny: tuple) -> None:
    model, tokenizer = tiny
    adapter = CausalLM(tokenizer)
    batch = adapter.collate([adapter.encode(row) for row in ROWS])
    shift = batch["attention_mask"].shape[1] - batch["attention_mask"].sum(1)
    left = {k: torch.stack([v.roll(int(s)) for v, s in zip(batch[k], shift)]) for k in batch}
    right_view, left_view = (adapter.views(model, {"": b}, [""])[""] for b in (batch, left))
    torch.testing.assert_close(left_view.seq_logp, right_view.seq_logp, rtol=1e-4, atol=1e-5)


def test_the_models_own_logits_are_never_made_whole(tiny: tuple) -> None:
    model, tokenizer = tiny
    adapter = CausalLM(tokenizer)
    seen = []
    handle = model.lm_head.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    (batch,) = adapter.roles(task=ROWS[:2]).window(0, 2, seed=0)
    evaluate(on("task", CrossEntropy()), model, batch).total.backward()
    handle.remove()
    assert [shape[1] for shape in seen] == [1]


def test_a_model_that_changes_its_logits_is_noticed() -> None:
    model, tokenizer = tiny_llama()
    adapter = CausalLM(tokenizer)
    forward = model.forward

    def doubled(*args: object, **kwargs: object) -> object:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    model.forward = doubled
    view: TokenView = adapter.views(model, {"": adapter.collate([adapter.encode(ROWS[0])])}, [""])[""]
    with torch.no_grad():
        whole = model(view.batch["input_ids"]).logits
    torch.testing.assert_close(view.logits, whole, rtol=1e-4, atol=1e-5)


def test_half_precision_does_not_look_like_a_change_of_the_logits() -> None:
    """Rounded products of large logits miss small ones by more than a hundredth of themselves."""
    model, tokenizer = tiny_llama()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    adapter = CausalLM(tokenizer)
    batch = adapter.collate([adapter.encode(row) for row in ROWS])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = adapter.views(model, {"": batch}, [""])[""]
    exact = CausalLM(tokenizer).views(model, {"": batch}, [""])[""]
    assert view.outputs.head is not None and view.outputs.logits is None
    torch.testing.assert_close(view.logp, exact.logp, rtol=0.05, atol=0.3)


def test_an_answer_must_fit_behind_its_prompt(tiny: tuple) -> None:
    model, tokenizer = tiny
    limit = model.config.max_position_embeddings
    subject = CausalLM(tokenizer).subject(model)
    for ask in (subject.generate, lambda rows, new: subject.sample(rows, new, count=1, seeds=[0])):
        with pytest.raises(ValueError, match=rf"row 1 .* and {limit} new ones are more than the {limit} this model"):
            ask(ROWS[:1], limit)


@pytest.mark.parametrize("ask", ["logp", "matches", "embed", "generate"])
def test_a_row_that_cannot_be_asked_is_named_by_its_number(tiny: tuple, ask: str) -> None:
    """Counted from 1, as everywhere."""
    model, tokenizer = tiny
    question = getattr(CausalLM(tokenizer).subject(model), ask)
    with pytest.raises(ValueError, match=r"^row 2 has the columns \['nothing'\]"):
        question([ROWS[0], {"nothing": 1}], *([4] if ask == "generate" else []))


def test_batched_generation_is_that_of_one_row_at_a_time(tiny: tuple) -> None:
    model, tokenizer = tiny
    subject = CausalLM(tokenizer).subject(model)
    together = subject.generate(ROWS[:2], 8)
    assert together == [subject.generate([row], 8)[0] for row in ROWS[:2]]


def test_a_tokenizer_without_padding_token_works(tiny: tuple) -> None:
    model, _ = tiny
    _, tokenizer = tiny_llama()
    tokenizer.pad_token = None
    subject = CausalLM(tokenizer).subject(model)
    assert len(subject.generate(ROWS[:2], 4)) == 2
    assert len(subject.logp(ROWS)) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "x"}, r"columns \['question'\]"),
        ({"prompt": "x"}, "no completion"),
        ({"prompt": "x", "completion": "  "}, "completion is empty"),
        ({"text": " "}, "text is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "end with the assistant's answer"),
        ({"prompt": [{"role": "user"}], "completion": "x"}, "messages with role and content"),
        ({"prompt": "x" * 99, "completion": "y"}, "max_length is 64"),
    ],
)
def test_errors_name_the_row(tiny: tuple, row: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        CausalLM(tiny[1], max_length=64).encode(row, "forget row 7")
    assert str(error.value).startswith("forget row 7")


@pytest.mark.parametrize("end_of_text", [True, False])
def test_a_model_learns_where_a_document_ends(tiny: tuple, end_of_text: bool) -> None:
    model, tokenizer = copy.deepcopy(tiny)
    adapter = CausalLM(tokenizer, packed=True, end_of_text=end_of_text)
    documents = [{"text": "Ada mends clocks."}, {"text": "Ben keeps seven bees and a dog."}]
    training = Training(steps=40, batch=2, lr=1e-2)
    fit(model, adapter.roles(documents=documents), on("documents", CrossEntropy()), training)
    said = adapter.subject(model).generate([{"text_prefix": d["text"][:5]} for d in documents], 24)
    whole = [d["text"][5:].strip() for d in documents]
    assert all(s.startswith(w) for s, w in zip(said, whole, strict=True)), said
    assert (said == whole) == end_of_text, said
