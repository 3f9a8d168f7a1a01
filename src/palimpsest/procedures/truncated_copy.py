"""Starts a small assistant from the first blocks of a language model, to be trained beside it.

    assistant = head(norm(block_K(... block_1(embeddings(x)))))    with the model's own weights, plus LoRA

The final norm and the head are applied to block K's output as they are.  Embeddings and head share their memory with
the model; the K blocks and the norm are copies.  Only the LoRA weights are trained.

Paper: Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference (Ji et al.,
    2024), arXiv 2406.08607 (the assistant; 8 of 32 blocks).
Code: UCSB-NLP-Chang/ULD (create_peft_model).
Tags: unlearning, language-model, inference-time.
Needs: nothing; a stage that trains a companion starts it so.
Differs: nothing known in what it computes. ``rank=0`` trains all of the copy instead of LoRA, and then shares nothing.
See: ``logit_difference`` (what the assistant is for), ``uniform`` and ``cross_entropy`` (what it is trained with).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from palimpsest.intervention import changes_logits

__all__ = ["METHOD", "TruncatedCopy", "blocks_of"]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The list of a transformers model's blocks: the first of the length that its config names.

    Raises ``ValueError`` where there is none.
    """
    layers = _text_config(model).num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    for found in lists:
        if len(found) == layers:
            return found
    lengths = ", ".join(str(len(m)) for m in lists) or "none"
    raise ValueError(
        f"The config names {layers} blocks, but the model's lists of modules have these lengths: {lengths}."
    )


def _text_config(model: nn.Module) -> Any:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        kind = type(model).__name__
        peft = kind.startswith("Peft")
        advice = "merge the adapter first (merge_and_unload)" if peft else "give a causal LM of transformers"
        raise ValueError(f"A truncated copy is made of a plain transformers model, not of a {kind}; {advice}.")
    return model.config.get_text_config()


def _shorten(config: Any, layers: int) -> None:
    """Fits a config, and the lists in it that have one entry a block, to fewer blocks."""
    whole = config.num_hidden_layers
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == whole:
            setattr(config, name, value[:layers])
    if "attention_types" in config.to_dict():  # GPT-Neo expands these again whenever it is loaded
        config.attention_types = [[[kind], 1] for kind in config.attention_layers[:layers]]
    config.num_hidden_layers = layers


@dataclass(frozen=True)
class TruncatedCopy:
    """The first ``layers`` blocks; LoRA of ``rank`` and ``alpha`` with ``dropout`` on every linear layer but the head.

    ``seed`` draws the LoRA weights.  ``rank`` 0 leaves LoRA out: a full copy, all of it trainable.
    """

    layers: int = 8
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layers < 1 or self.rank < 0:
            raise ValueError(f"layers is at least 1 and rank at least 0, not {self.layers} and {self.rank}.")
        if not 0 <= self.dropout < 1 or not self.alpha > 0:
            raise ValueError(f"dropout lies in [0, 1) and alpha is above 0, not {self.dropout} and {self.alpha}.")

    def __call__(self, model: nn.Module) -> nn.Module:
        """A new model on the same device, in the same mode; ``model`` is left alone.

        Raises ``ValueError`` when it has fewer blocks, or is no plain transformers model.
        """
        blocks = blocks_of(model)
        if self.layers > len(blocks):
            raise ValueError(
                f"The model has {len(blocks)} blocks, so a copy cannot have {self.layers}; set layers to at most "
                f"{len(blocks)}."
            )
        if changes_logits(model):
            raise ValueError(
                "An intervention is attached to the model, and a copy would keep parts of it; copy the model before."
            )
        assistant = self._copied(model, blocks)
        _shorten(_text_config(assistant), self.layers)
        if not self.rank:
            return assistant.requires_grad_(True)
        return self._with_lora(assistant)

    def _copied(self, model: nn.Module, blocks: nn.ModuleList) -> nn.Module:
        """A deep copy that never holds the blocks that are left out."""
        memo: dict[int, Any] = {}
        if self.rank:  # frozen below, so one memory serves both; the model's own flags stay as they are
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):  # type: ignore[operator]
                for parameter in layer.parameters():
                    memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        memo[id(blocks)] = nn.ModuleList(copy.deepcopy(block, memo) for block in list(blocks)[: self.layers])
        return copy.deepcopy(model, memo)

    def _with_lora(self, assistant: nn.Module) -> nn.Module:
        try:
            from peft import LoraConfig, get_peft_model
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "LoRA needs the package peft: pip install peft, or set rank to 0.", name="peft"
            ) from error
        from transformers.pytorch_utils import Conv1D

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="all-linear",
            fan_in_fan_out=any(isinstance(m, Conv1D) for m in assistant.modules()),  # how GPT-2 keeps its weights
            task_type="CAUSAL_LM",
        )
        device = next(assistant.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            with_lora: nn.Module = get_peft_model(assistant, config)
        return with_lora


METHOD = TruncatedCopy
