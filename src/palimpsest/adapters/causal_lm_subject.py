"""The questions an audit may ask, answered by a causal language model in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from palimpsest.audit import Row
from palimpsest.kernels.linear_log_probability import linear_logits
from palimpsest.reference import evaluating

if TYPE_CHECKING:
    from palimpsest.adapters.causal_lm import CausalLM
    from palimpsest.views import TokenView

__all__ = ["CausalLMSubject", "context_of"]

TOKENS_A_BATCH = 2048
"""Padded tokens in one scoring batch: large enough to keep two cores or one card busy, small enough for both."""

GENERATED_AT_ONCE = {"cuda": 32_768}
"""The same for generation where it is another: a card takes as long for a few rows' next token as for hundreds."""

_POSITIONS = 256
"""Positions whose [positions, V] logits are held at once when only the most likely token is asked for."""


def _greedy(view: TokenView) -> Tensor:
    """The most likely token at each scored position of a batch, row after row, [positions]."""
    out, mask = view.outputs, view.mask  # [B, T-1]
    if out.hidden is None or out.head is None:
        return view.logits[:, :-1][mask].argmax(-1)
    head, hidden = out.head, out.hidden[:, :-1][mask]  # [positions, D]
    return torch.cat(
        [
            linear_logits(part, head.weight, head.bias, softcap=head.softcap, scale=head.scale).argmax(-1)
            for part in torch.split(hidden, _POSITIONS)
        ]
    )


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices grouped by length, longest first: little padding is wasted, and the first batch needs most memory."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def context_of(model: nn.Module) -> int | None:
    """How many tokens a causal language model can see; None where its config names no limit."""
    config = model.config.get_text_config().to_dict()  # type: ignore[union-attr,operator]
    limit: int | None = config.get("max_position_embeddings", config.get("n_positions"))
    return limit


class _Drawn:
    """Leaves one token possible at each position: the one at which the cumulated probability passes a drawn number.

    ``uniform`` [B, max_new_tokens] are the numbers.  Generation then takes the most likely token, so that what is drawn
    depends neither on the other rows of a batch nor on the global random state.
    """

    def __init__(self, uniform: Tensor, temperature: float) -> None:
        self.uniform = uniform
        self.temperature = temperature
        self.position = 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] of the next token."""
        below = (scores.double() / self.temperature).softmax(-1).cumsum(-1)  # [B, V]
        passed = self.uniform[:, self.position, None] * below[:, -1:]  # [B, 1]
        self.position += 1
        token = torch.searchsorted(below, passed, right=True)  # [B, 1]; never one of probability 0
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class CausalLMSubject:
    """A model and the adapter that feeds it. Answers are the same whatever the batch; rows come back in order."""

    def __init__(self, adapter: CausalLM, model: nn.Module, *, tokens_a_batch: int | None = None) -> None:
        self.adapter = adapter
        self.model = model
        self.tokens_a_batch = tokens_a_batch or TOKENS_A_BATCH
        self.told: Callable[[int, int], None] = lambda answered, asked: None
        self._generated = tokens_a_batch or GENERATED_AT_ONCE.get(self._device.type, TOKENS_A_BATCH)

    def _batches(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """``_batches`` of the rows; tells how many are answered when the next batch is asked for."""
        answered = 0
        for indices in _batches(lengths, budget):
            yield indices
            answered += len(indices)
            self.told(answered, len(lengths))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row, log-probabilities in nats of the scored tokens, float32 on CPU, [T_i]."""
        examples = [self.adapter.encode(row, f"row {i}") for i, row in enumerate(rows, 1)]
        found: dict[int, Tensor] = {}
        for indices in self._batches([len(e["input_ids"]) for e in examples], self.tokens_a_batch):
            batch = {k: v.to(self._device) for k, v in self.adapter.collate([examples[i] for i in indices]).items()}
            with evaluating(self.model):
                view = self.adapter.views(self.model, {"": batch}, [""])[""]
                logp, mask = view.logp.float().cpu(), view.mask.cpu()  # [B, T-1]
            found.update({i: logp[b][mask[b]] for b, i in enumerate(indices)})
        return [found[i] for i in range(len(rows))]

    def matches(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row, whether each scored token is the most likely one after the true tokens before it, bool, [T_i]."""
        examples = [self.adapter.encode(row, f"row {i}") for i, row in enumerate(rows, 1)]
        found: dict[int, Tensor] = {}
        for indices in self._batches([len(e["input_ids"]) for e in examples], self.tokens_a_batch):
            batch = {k: v.to(self._device) for k, v in self.adapter.collate([examples[i] for i in indices]).items()}
            with evaluating(self.model):
                view = self.adapter.views(self.model, {"": batch}, [""])[""]
                same = (_greedy(view) == view.targets[view.mask]).cpu()
            found.update(zip(indices, torch.split(same, view.mask.sum(1).tolist())))
        return [found[i] for i in range(len(rows))]

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """Mean over a row's tokens of what enters the head, float32 on CPU, [N, D]."""
        examples = [self.adapter.encode(row, f"row {i}") for i, row in enumerate(rows, 1)]
        found: dict[int, Tensor] = {}
        for indices in self._batches([len(e["input_ids"]) for e in examples], self.tokens_a_batch):
            batch = {k: v.to(self._device) for k, v in self.adapter.collate([examples[i] for i in indices]).items()}
            with evaluating(self.model):
                hidden = self.adapter.views(self.model, {"": batch}, [""])[""].hidden("last").float()  # [B, T, D]
                mask = batch["attention_mask"].unsqueeze(-1)  # [B, T, 1]
                mean = (hidden * mask).sum(1) / mask.sum(1)  # [B, D]
            found.update(dict(zip(indices, mean.cpu())))
        return torch.stack([found[i] for i in range(len(rows))])

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Greedy answers as text, without prompt and special tokens."""
        prompts = self._prompts(rows, max_new_tokens)
        found: dict[int, str] = {}
        budget = max(self._generated, max(map(len, prompts)) + max_new_tokens)
        for indices in self._batches([len(p) + max_new_tokens for p in prompts], budget):
            found.update(zip(indices, self._continue([prompts[i] for i in indices], max_new_tokens)))
        return [found[i] for i in range(len(rows))]

    def sample(
        self, rows: Sequence[Row], max_new_tokens: int, *, count: int, seeds: Sequence[int], temperature: float = 1.0
    ) -> list[list[str]]:
        """``count`` random answers to each row; one row's depend on its seed and on no other row."""
        if count < 1 or not temperature > 0:
            raise ValueError(f"Sampling needs count and temperature above 0, not {count} and {temperature}.")
        drawn: list[Tensor] = []  # per row, one number in [0, 1) for each token, [count, max_new_tokens]
        for _, seed in zip(rows, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            drawn.append(torch.rand(count, max_new_tokens, generator=generator, dtype=torch.float64))
        prompts = self._prompts(rows, max_new_tokens)
        jobs = [(i, draw) for i in range(len(rows)) for draw in range(count)]
        found: dict[tuple[int, int], str] = {}
        budget = max(self._generated, max(map(len, prompts)) + max_new_tokens)
        for batch in self._batches([len(prompts[i]) + max_new_tokens for i, _ in jobs], budget):
            chosen = [jobs[k] for k in batch]
            uniform = torch.stack([drawn[i][draw] for i, draw in chosen]).to(self._device)
            texts = self._continue([prompts[i] for i, _ in chosen], max_new_tokens, _Drawn(uniform, temperature))
            found.update(zip(chosen, texts))
        return [[found[i, draw] for draw in range(count)] for i in range(len(rows))]

    def _prompts(self, rows: Sequence[Row], max_new_tokens: int) -> list[list[int]]:
        """Every row's prompt as tokens; refused where an answer of full length would not fit behind it."""
        return [self.check_prompt(row, f"row {i}", max_new_tokens) for i, row in enumerate(rows, 1)]

    def check_prompt(self, row: Row, place: str, max_new_tokens: int) -> list[int]:
        """The tokens of a row's prompt. Raises ``ValueError`` where so many new ones would not fit behind them."""
        prompt, limit = self.adapter.prompt(row, place), context_of(self.model)
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise ValueError(
                f"{place} has a prompt of {len(prompt)} tokens, and {max_new_tokens} new ones are more than the "
                f"{limit} this model can see; lower max_new_tokens or shorten the row."
            )
        return prompt

    def truncate(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The first ``tokens`` tokens of each text, as text."""
        kept = []
        for text in texts:
            ids, decode = self.adapter.tokens.ids(text), self.adapter.tokenizer.decode
            kept.append(text if len(ids) <= tokens else decode(ids[:tokens], clean_up_tokenization_spaces=False))
        return kept

    def _continue(self, prompts: Sequence[list[int]], max_new_tokens: int, drawn: _Drawn | None = None) -> list[str]:
        """One left-padded batch of greedy generation, or of tokens as they are drawn."""
        from transformers import GenerationConfig

        tokenizer = self.adapter.tokenizer
        width = max(map(len, prompts))
        fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
        ids = torch.tensor([[fill] * (width - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        greedy = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=fill,
            eos_token_id=tokenizer.eos_token_id,
        )
        with evaluating(self.model):
            processors = [] if drawn is None else [drawn]
            out = self.model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, generation_config=greedy, logits_processor=processors
            )
        texts: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def predict(self, rows: Sequence[Row]) -> Tensor:
        """A language model has no classes of its own."""
        raise ValueError(
            "This audit asks for classes, which a language model has none of; use an audit of probabilities or text."
        )
