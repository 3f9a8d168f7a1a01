"""Causal language models of Hugging Face transformers.

One forward serves all roles; the output layer is kept apart from it, so that log-probabilities of the targets
never cost the [B, T, V] logits.  Rows may be padded on either side, or packed behind each other.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from palimpsest.adapters.causal_lm_subject import CausalLMSubject
from palimpsest.adapters.packing import Packing, packing
from palimpsest.adapters.rows_to_tokens import Tokens, complete, prompt_ids
from palimpsest.audit import Row
from palimpsest.checkpoint import unwritable, write_text
from palimpsest.intervention import changes_logits
from palimpsest.kernels.linear_log_probability import linear_logits
from palimpsest.reference import Columns, OtherRows
from palimpsest.roles import Roles
from palimpsest.views import BLOCKS, IGNORE, Batch, Example, Head, TokenOutputs, TokenView, Unit, View

__all__ = ["CausalLM", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside a DistributedDataParallel wrapper, or the module itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


@dataclass(frozen=True, eq=False)
class CausalLM:
    """``tokenizer`` of the model; ``max_length`` in tokens, longer rows are refused.

    ``chat`` wraps plain prompts and completions as user and assistant turns; ``chat_template`` replaces the
    tokenizer's template (``chatml`` is built in).  ``packed`` puts short rows behind each other in place of padding,
    which pays where rows differ much in length.  ``end_of_text`` writes the end token behind each row with ``text``
    and scores it, in training and in audits, so that a model learns where documents end; without it a text may be a
    passage that goes on.

    Raises ``ValueError`` for a tokenizer without an end token where one is asked for.
    """

    tokenizer: Any
    max_length: int = 1024
    chat: bool = False
    chat_template: str | None = None
    packed: bool = False
    end_of_text: bool = False
    _apart: weakref.WeakKeyDictionary[nn.Module, bool] = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.end_of_text and self.tokenizer.eos_token_id is None:
            raise ValueError("end_of_text: this tokenizer has no end token; give it one (eos_token), or leave it out.")

    @property
    def tokens(self) -> Tokens:
        """How this adapter turns text into tokens."""
        return Tokens(self.tokenizer, self.chat, self.chat_template, self.end_of_text)

    def roles(self, **rows: Sequence[Row]) -> Roles:
        """``adapter.roles(forget=[…], retain=[…])``."""
        return Roles(self, rows)

    def encode(self, row: Row, place: str = "row") -> Example:
        """Token ids [T] and labels [T] (-100 where not scored)."""
        ids, start = complete(row, self.tokens, place)
        self._fits(len(ids), place)
        if len(ids) <= max(start, 1):
            raise ValueError(f"{place}: no token is left to be scored; give the completion some text.")
        labels = [IGNORE] * start + ids[start:]
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}

    def prompt(self, row: Row, place: str = "row") -> list[int]:
        """Token ids from which an answer is generated."""
        ids = prompt_ids(row, self.tokens, place)
        self._fits(len(ids), place)
        return ids

    def _fits(self, length: int, place: str) -> None:
        if length > self.max_length:
            raise ValueError(
                f"{place} has {length} tokens, but max_length is {self.max_length}; shorten the row or raise"
                " model.max_length."
            )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Right-padded: input_ids, attention_mask, labels [B, T]; scalars per row are stacked to [B]."""
        longest = max(len(e["input_ids"]) for e in examples)
        fill = self.tokenizer.pad_token_id or 0  # masked out, so any id serves where the tokenizer has none

        def stack(name: str, value: int) -> Tensor:
            return torch.stack([pad(e[name], (0, longest - len(e[name])), value=value) for e in examples])

        lengths = torch.tensor([len(e["input_ids"]) for e in examples])
        batch = {
            "input_ids": stack("input_ids", fill),
            "labels": stack("labels", IGNORE),
            "attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long(),
        }
        return batch | {k: torch.stack([e[k] for e in examples]) for k in examples[0] if k not in batch}

    def count(self, batch: Batch, unit: Unit) -> int:
        """Scored tokens, or rows."""
        return int((batch["labels"][:, 1:] != IGNORE).sum()) if unit == "token" else len(batch["labels"])

    def views(
        self, model: nn.Module, batch: Mapping[str, Batch], roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, TokenView]:
        """One forward over the rows of all roles, padded together; then each role's own share."""
        width = max(batch[r]["input_ids"].shape[1] for r in roles)
        ids, mask = (
            torch.cat([pad(batch[r][k], (0, width - batch[r][k].shape[1])) for r in roles])
            for k in ("input_ids", "attention_mask")
        )
        taps = sorted(n.removeprefix("hidden:") for n in needs if n != "hidden:last")
        whole = self._forward(model, ids, mask, taps)
        views, first = {}, 0
        for role in roles:
            rows, length = batch[role]["input_ids"].shape

            def part(value: Tensor | None, first: int = first, rows: int = rows, length: int = length) -> Tensor | None:
                return None if value is None else value[first : first + rows, :length]

            tapped = {k: v[first : first + rows, :length] for k, v in whole.taps.items()}
            views[role] = TokenView(
                batch[role], TokenOutputs(part(whole.hidden), whole.head, part(whole.logits), tapped)
            )
            first += rows
        return views

    def _forward(self, model: nn.Module, ids: Tensor, mask: Tensor, taps: Sequence[str]) -> TokenOutputs:
        """Hidden states before the head, and the head; the logits only where the two cannot be told apart."""
        inner = unwrapped(model)
        packed = packing(mask, one_row=_knows_borders(inner)) if self.packed else None
        inputs = _inputs(inner, ids, mask, packed)
        changed = changes_logits(inner)  # then the head alone does not tell what the model says
        head = head_of(inner) if self._apart.get(inner, True) and not changed else None
        kept: dict[str, Tensor] = {}

        def record(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                kept[name] = output[0] if isinstance(output, tuple) else output

            return hook

        def cut(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept[""] = args[0]  # what enters the head, [B, T, D]
            return args if changed else (args[0][:, :1], *args[1:])  # the logits of one position only

        blocks = blocks_of(inner) if BLOCKS in taps else []
        paths = {*taps, *blocks} - {BLOCKS}
        handles = [inner.get_submodule(name).register_forward_hook(record(name)) for name in sorted(paths)]
        if head is not None or changed:
            handles.append(inner.get_output_embeddings().register_forward_pre_hook(cut))  # type: ignore[operator]
        try:
            logits = model(**inputs, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        hidden = kept.pop("", None)
        if blocks:
            kept[BLOCKS] = torch.cat([kept[name] for name in blocks], -1)
        if head is not None and hidden is not None and inner not in self._apart:
            again = linear_logits(hidden[:1, :1], head.weight, head.bias, softcap=head.softcap, scale=head.scale)
            self._apart[inner] = _alike(again, logits[:1])
            if not self._apart[inner]:  # the model does something of its own to the logits
                return self._forward(model, ids, mask, taps)
        unpack = (lambda value: value) if packed is None else packed.unpack
        spread = {name: unpack(kept[name]) for name in taps}
        if head is None or hidden is None:
            return TokenOutputs(None if hidden is None else unpack(hidden), None, unpack(logits), spread)
        return TokenOutputs(unpack(hidden), head, None, spread)

    def store(self, view: View, full: bool) -> list[Columns]:
        """Per row, without padding: tokens [T], log-probabilities [T-1]; if ``full``, what enters the head [T, D]."""
        assert isinstance(view, TokenView)
        rows: list[Columns] = []
        for i, length in enumerate(view.batch["attention_mask"].sum(1).tolist()):
            ids = view.batch["input_ids"][i, :length].to(torch.int32)
            columns = {"input_ids": ids, "logp": view.logp[i, : length - 1].clone()}
            if full:
                columns["hidden"] = view.hidden("last")[i, :length].clone()
            rows.append(columns)
        return rows

    def recall(self, batch: Batch, columns: Sequence[Columns], head: Head | None) -> TokenView:
        """A view of ``batch`` from what ``store`` kept; ``OtherRows`` where that is of other tokens."""
        _refuse_others(batch, columns)
        width, device = batch["input_ids"].shape[1], batch["input_ids"].device
        hidden = None
        if head is not None:
            hidden = torch.stack([pad(c["hidden"], (0, 0, 0, width - len(c["hidden"]))) for c in columns]).to(device)
        view = TokenView(batch, TokenOutputs(hidden, head))
        logp = torch.stack([pad(c["logp"], (0, width - 1 - len(c["logp"]))) for c in columns]).to(device)
        view.__dict__["logp"] = logp  # the cached property, filled
        return view

    def frozen_head(self, model: nn.Module) -> Head | None:
        """A detached copy of the output layer."""
        if changes_logits(unwrapped(model)):
            raise ValueError(
                "An intervention changes this model's logits, so they cannot be made again from its output layer; "
                "cache without it."
            )
        head = head_of(unwrapped(model))
        if head is None:
            raise ValueError(
                "This model's output layer cannot be kept apart, so whole distributions cannot be cached; use"
                " reference: copy."
            )
        bias = None if head.bias is None else head.bias.detach().clone()
        return Head(head.weight.detach().clone(), bias, head.softcap, head.scale)

    def write_config(self, model: nn.Module, folder: Path) -> None:
        """Config and tokenizer, so that the weights in ``folder`` load as ``save_pretrained`` would have left them.

        The tokenizer gets the chat template that the rows were written in.  Raises ``OSError`` where nothing can be
        written.
        """
        config = copy.deepcopy(model.config)
        config.architectures, config.dtype = [type(model).__name__], next(model.parameters()).dtype  # type: ignore[union-attr]
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.chat_template = self.tokens.template or tokenizer.chat_template
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:  # tokenizers' own kind, for a full disk
            raise unwritable(folder, error) from error
        # Not its own save_pretrained, which refuses what some published models carry.
        write_text(folder / "generation_config.json", model.generation_config.to_json_string())  # type: ignore[union-attr,operator]
        write_text(folder / "config.json", config.to_json_string())  # type: ignore[union-attr,operator]

    def subject(self, model: nn.Module) -> CausalLMSubject:
        """What an audit may ask of the model."""
        return CausalLMSubject(self, model)


def _refuse_others(batch: Batch, columns: Sequence[Columns]) -> None:
    """Raises ``OtherRows`` where stored columns are not of the tokens of a batch, row by row."""
    lengths = batch["attention_mask"].sum(1).tolist()
    for ids, length, stored in zip(batch["input_ids"].cpu(), lengths, columns, strict=True):
        # A file that was written before tokens were stored has none.
        if "input_ids" in stored and not torch.equal(ids[:length].int(), stored["input_ids"].cpu()):
            raise OtherRows


def _alike(head: Tensor, model: Tensor) -> bool:
    """Whether the head alone gives the model's logits, to the rounding of half precision at their own size."""
    head, model = head.float(), model.float()
    return bool((head - model).abs().amax() <= 0.01 * model.abs().amax() + 1e-6)


def _inputs(model: nn.Module, ids: Tensor, mask: Tensor, packed: Packing | None) -> dict[str, Tensor]:
    """What the model is called with; it sees by the positions where a packed row begins."""
    if packed is not None:
        return {"input_ids": packed.pack(ids), "position_ids": packed.positions}
    inputs = {"input_ids": ids, "attention_mask": mask}
    left = not bool(mask[:, 0].all())
    if left and "position_ids" in inspect.signature(_plain(model).forward).parameters:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)  # [B, T]
    return inputs


def _knows_borders(model: nn.Module) -> bool:
    """Whether the model's attention leaves out pairs of tokens of different packed rows, but only in a batch of one."""
    return str(getattr(_plain(model).config, "_attn_implementation", "")).startswith("flash_attention")


def _plain(model: nn.Module) -> nn.Module:
    """The transformers model under a peft wrapper, whose own forward hides the signature."""
    return model.get_base_model() if type(model).__name__.startswith("Peft") else model  # type: ignore[operator]


def blocks_of(model: nn.Module) -> list[str]:
    """The module paths of the model's decoder blocks, from the first to the last."""
    count = _plain(model).config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [f"{name}.{i}" for i in range(count)]
    raise ValueError(f"No list of {count} blocks was found in this model; name its modules as hidden:<path> instead.")


def head_of(model: nn.Module) -> Head | None:
    """The model's output layer as numbers, or None where it is not a plain linear layer held whole on this process."""
    from torch.distributed.tensor import DTensor

    layer = model.get_output_embeddings()  # type: ignore[operator]
    if type(layer) is not nn.Linear or isinstance(layer.weight, DTensor):
        return None
    config = _plain(model).config
    softcap = config.to_dict().get("final_logit_softcapping")  # type: ignore[union-attr,operator]
    return Head(layer.weight, layer.bias, softcap)
