"""Subtracts from a model's logits those of a small assistant that knows what should be forgotten.

    S = {v : log p_b(v) >= min(max_u log p_b(u) + ln r, the max(1, int(r V))-th largest log p_b)}
    z = b - alpha a  on S
    next token ~ softmax_S(z);    score  q(v) = P_b(S) softmax_S(z)_v  on S,  p_b(v) outside

b are the model's logits and a the assistant's, of V tokens each.  The assistant is peaked on what it learned, the
forget set, and flat elsewhere: there nothing is taken away.  The filter S keeps tokens out that only the subtraction
would raise.  The knowledge stays in the weights: the model without the intervention still has it.

Paper: Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference (Ji et al.,
    2024), arXiv 2406.08607 (inference).
Code: UCSB-NLP-Chang/ULD (ContrastLLM, ContrastGenerationMixin).
Tags: forget, unlearning, inference-time, language-model.
Needs: a companion with the same vocabulary, trained on forget with ``cross_entropy`` and on retain with ``uniform``.
Differs: the rank rule keeps at least one token where int(r V) is 0 (released: all of them). Outside S, the released
    scores are logits of b beside those of b - alpha a on S, which change when a constant is added to a; the q above is
    a distribution and does not. Figures from ``generate`` use softmax_S(z), all others q. The released default of
    alpha is stored with the opposite sign.
See: ``truncated_copy`` (where the assistant starts), ``uniform``, ``cross_entropy``.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.intervention import changing_logits
from palimpsest.reference import evaluating

__all__ = ["METHOD", "LogitDifference", "combine_generation", "combine_scoring", "keep_set"]

_PASSED_ON = ("input_ids", "attention_mask", "position_ids", "logits_to_keep")
"""What the assistant is given as the model was given it."""


def keep_set(log_p: Tensor, top_logit_filter: float) -> Tensor:
    """Log-probabilities [..., V] -> bool [..., V]: the tokens that stay, at least one; all for a filter of 0."""
    if not top_logit_filter:
        return torch.ones_like(log_p, dtype=torch.bool)
    number = max(1, int(top_logit_filter * log_p.shape[-1]))
    by_rank = log_p.topk(number, dim=-1).values[..., -1:]  # [..., 1]
    by_probability = log_p.amax(-1, keepdim=True) + math.log(top_logit_filter)  # [..., 1]
    return log_p >= torch.minimum(by_probability, by_rank)


def combine_generation(b: Tensor, a: Tensor, alpha: float, top_logit_filter: float) -> Tensor:
    """Logits of model and assistant [..., V] -> logits of the next token: b - alpha a on S, -inf outside."""
    kept = keep_set(b.log_softmax(-1), top_logit_filter)
    return (b - alpha * a).masked_fill(~kept, -math.inf)


def combine_scoring(b: Tensor, a: Tensor, alpha: float, top_logit_filter: float) -> Tensor:
    """Logits of model and assistant [..., V] -> log q [..., V], log-probabilities that sum to one over all tokens.

    A constant added to ``a`` or ``b`` changes nothing.
    """
    log_p = b.log_softmax(-1)
    kept = keep_set(log_p, top_logit_filter)
    mass = log_p.masked_fill(~kept, -math.inf).logsumexp(-1, keepdim=True)  # [..., 1] ln P_b(S)
    inside = (b - alpha * a).masked_fill(~kept, -math.inf).log_softmax(-1)
    return torch.where(kept, inside + mass, log_p)


@dataclass(frozen=True)
class LogitDifference:
    """``alpha`` >= 0 is how much of the assistant is subtracted; ``top_logit_filter`` r in [0, 1), 0 for no filter.

    ``assistant`` names the companion.
    """

    alpha: float = 0.8
    top_logit_filter: float = 0.01
    assistant: str = "assistant"

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise ValueError(
                f"alpha is the share of the assistant that is subtracted, at least 0, not {self.alpha}; drop the sign."
            )
        if not 0 <= self.top_logit_filter < 1:
            raise ValueError(f"top_logit_filter lies in [0, 1), not {self.top_logit_filter}; 0 keeps every token.")

    @contextlib.contextmanager
    def attach(self, model: nn.Module, companions: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
        """A context in which ``model`` (plain, peft or DDP) answers without what the assistant knows.

        Raises ``ValueError`` when the companion is missing, is the model itself, or has another vocabulary.
        """
        assistant = companions.get(self.assistant)
        if assistant is None:
            there = ", ".join(companions) or "none"
            raise ValueError(
                f"There is no companion {self.assistant!r} (there are: {there}); train one in an earlier stage."
            )
        layers = _wrapped(model)
        if any(assistant is layer for layer in layers) or _wrapped(assistant)[-1] is layers[-1]:
            raise ValueError("The assistant is the model itself; start it as a truncated copy.")
        heads = [m.get_output_embeddings() for m in (layers[-1], _wrapped(assistant)[-1])]  # type: ignore[operator]
        sizes = [head.weight.shape[0] for head in heads]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The model has {sizes[0]} tokens and the assistant {sizes[1]}; they must share one vocabulary."
            )
        subtraction = _Subtraction(self, assistant)
        with changing_logits(*layers), contextlib.ExitStack() as stack:
            for layer in layers:
                stack.callback(layer.register_forward_hook(subtraction.combine, with_kwargs=True).remove)
                stack.enter_context(_generating(layer, subtraction))
            yield model


class _Subtraction:
    """An assistant at work beside one model: its caches, and whether text is being generated."""

    def __init__(self, method: LogitDifference, assistant: nn.Module) -> None:
        self.method = method
        self.assistant = assistant
        self.depth = 0  # calls of generate that are under way
        self.caches: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self.last: Callable[[], Any] = lambda: None

    def combine(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook: replaces the logits of ``output``."""
        if isinstance(output, tuple) or kwargs.get("labels") is not None:
            raise ValueError(
                "While LogitDifference is attached, call the model without labels and with return_dict; score its "
                "logits."
            )
        if output is self.last():  # a wrapper's hook, after that of the model inside
            return output
        inputs = self._inputs(args, kwargs)
        b = output.logits if output.logits.dtype == torch.float64 else output.logits.float()  # [B, T, V]
        a = self._ask(inputs, output.get("past_key_values")).to(b)[:, -b.shape[1] :]  # [B, T, V]
        join = combine_generation if self.depth else combine_scoring
        output.logits = join(b, a, self.method.alpha, self.method.top_logit_filter)
        self.last = weakref.ref(output)
        return output

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = {**dict(zip(_PASSED_ON[:1], args)), **kwargs}
        if len(args) > 1 or given.get("input_ids") is None:
            raise ValueError(
                "While LogitDifference is attached, call the model with input_ids, and all else by keyword."
            )
        device = next(self.assistant.parameters()).device
        found = {k: given[k] for k in _PASSED_ON if given.get(k) is not None}
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in found.items()}

    def _ask(self, inputs: dict[str, Any], cache: Any) -> Tensor:
        """The assistant's logits on the same tokens [B, T, V], from its own cache where the model used one."""
        own = None if cache is None else self._own(cache, inputs["input_ids"].shape[1])
        with evaluating(self.assistant):
            logits: Tensor = self.assistant(**inputs, past_key_values=own, use_cache=own is not None).logits
        if own is not None:
            # The model's cache carries the assistant's layers behind its own, so that whatever generate does to it
            # (reorder the beams, drop rejected tokens) happens to both.
            cache.layers.extend(layer for layer in own.layers if all(layer is not other for other in cache.layers))
        return logits

    def _own(self, cache: Any, length: int) -> Any:
        """The assistant's cache that belongs to ``cache``: a fresh one for a fresh one."""
        from transformers import DynamicCache

        if not isinstance(cache, DynamicCache):
            raise ValueError(
                f"LogitDifference works beside a DynamicCache, not a {type(cache).__name__}; leave "
                "cache_implementation out."
            )
        if cache not in self.caches:
            self.caches[cache] = DynamicCache(config=_wrapped(self.assistant)[-1].config)
        own = self.caches[cache]
        if own.get_seq_length() != cache.get_seq_length() - length:
            raise ValueError("This cache was filled while LogitDifference was not attached; start with a fresh one.")
        return own


@contextlib.contextmanager
def _generating(model: nn.Module, subtraction: _Subtraction) -> Iterator[None]:
    """Counts the calls of ``model.generate`` that are under way; they want -inf, where scores want a distribution."""
    if isinstance(model, nn.parallel.DistributedDataParallel):  # which has no generate of its own
        yield
        return
    before = vars(model).get("generate")
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]

    def counted(*args: Any, **kwargs: Any) -> Any:
        subtraction.depth += 1
        try:
            return generate(*args, **kwargs)
        finally:
            subtraction.depth -= 1

    vars(model)["generate"] = counted
    try:
        yield
    finally:
        vars(model).pop("generate", None)
        if before is not None:
            vars(model)["generate"] = before


def _wrapped(model: nn.Module) -> list[nn.Module]:
    """The model and what it wraps, outermost first: DDP, peft, and the transformers model itself."""
    layers = [model]
    if isinstance(model, nn.parallel.DistributedDataParallel):
        layers.append(model.module)
    if type(layers[-1]).__name__.startswith("Peft"):
        layers.append(layers[-1].get_base_model())  # type: ignore[operator]
    return layers


METHOD = LogitDifference
