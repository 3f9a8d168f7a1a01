"""A model that answers with its own logits and a companion's, joined: what such interventions have in common.

The companion sees the tokens that the model sees and has a cache of its own.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.intervention import changing_logits
from palimpsest.reference import evaluating

__all__ = ["Join", "joined_logits"]

Join = Callable[[Tensor, Tensor, bool], Tensor]
"""Logits of the model and of the companion [B, T, V], and whether text is being generated -> the logits to answer with.

They are at least float32."""

_PASSED_ON = ("input_ids", "attention_mask", "position_ids", "logits_to_keep")
"""What the companion is given as the model was given it."""


@contextlib.contextmanager
def joined_logits(
    method: str, model: nn.Module, companions: Mapping[str, nn.Module], name: str, join: Join
) -> Iterator[nn.Module]:
    """A context in which ``model`` (plain, peft or DDP) answers with ``join`` of its logits and the companion's.

    ``method`` stands in errors, ``name`` is the companion's.  Raises ``ValueError`` when that is missing, is the model
    itself, or has another vocabulary.
    """
    companion = companions.get(name)
    if companion is None:
        there = ", ".join(companions) or "none"
        raise ValueError(f"There is no companion {name!r} (there are: {there}); train one in an earlier stage.")
    layers = _wrapped(model)
    if any(companion is layer for layer in layers) or _wrapped(companion)[-1] is layers[-1]:
        raise ValueError(f"The companion {name!r} is the model itself; start it as a copy.")
    heads = [m.get_output_embeddings() for m in (layers[-1], _wrapped(companion)[-1])]  # type: ignore[operator]
    sizes = [head.weight.shape[0] for head in heads]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"The model has {sizes[0]} tokens and the companion {name!r} {sizes[1]}; they must share one vocabulary."
        )
    pair = _Pair(method, companion, join)
    with changing_logits(*layers), contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(pair.answer, with_kwargs=True).remove)
            stack.enter_context(_generating(layer, pair))
        yield model


class _Pair:
    """A companion at work beside one model: its caches, and whether text is being generated."""

    def __init__(self, method: str, companion: nn.Module, join: Join) -> None:
        self.method = method
        self.companion = companion
        self.join = join
        self.depth = 0  # calls of generate that are under way
        self.caches: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self.last: Callable[[], Any] = lambda: None

    def answer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook: replaces the logits of ``output``."""
        if isinstance(output, tuple) or kwargs.get("labels") is not None:
            raise ValueError(
                f"While {self.method} is attached, call the model without labels and with return_dict; score its "
                "logits."
            )
        if output is self.last():  # a wrapper's hook, after that of the model inside
            return output
        inputs = self._inputs(args, kwargs)
        own = output.logits if output.logits.dtype == torch.float64 else output.logits.float()  # [B, T, V]
        other = self._ask(inputs, output.get("past_key_values")).to(own)[:, -own.shape[1] :]  # [B, T, V]
        output.logits = self.join(own, other, self.depth > 0)
        self.last = weakref.ref(output)
        return output

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = {**dict(zip(_PASSED_ON[:1], args)), **kwargs}
        if len(args) > 1 or given.get("input_ids") is None:
            raise ValueError(
                f"While {self.method} is attached, call the model with input_ids, and all else by keyword."
            )
        device = next(self.companion.parameters()).device
        found = {k: given[k] for k in _PASSED_ON if given.get(k) is not None}
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in found.items()}

    def _ask(self, inputs: dict[str, Any], cache: Any) -> Tensor:
        """The companion's logits on the same tokens [B, T, V], from its own cache where the model used one."""
        own = None if cache is None else self._own(cache, inputs["input_ids"].shape[1])
        with evaluating(self.companion):
            logits: Tensor = self.companion(**inputs, past_key_values=own, use_cache=own is not None).logits
        if own is not None:
            # The model's cache carries the companion's layers behind its own, so that whatever generate does to it
            # (reorder the beams, drop rejected tokens) happens to both.
            cache.layers.extend(layer for layer in own.layers if all(layer is not other for other in cache.layers))
        return logits

    def _own(self, cache: Any, length: int) -> Any:
        """The companion's cache that belongs to ``cache``: a fresh one for a fresh one."""
        from transformers import DynamicCache

        if not isinstance(cache, DynamicCache):
            raise ValueError(
                f"{self.method} works beside a DynamicCache, not a {type(cache).__name__}; leave "
                "cache_implementation out."
            )
        if cache not in self.caches:
            self.caches[cache] = DynamicCache(config=_wrapped(self.companion)[-1].config)
        own = self.caches[cache]
        if own.get_seq_length() != cache.get_seq_length() - length:
            raise ValueError(f"This cache was filled while {self.method} was not attached; start with a fresh one.")
        return own


@contextlib.contextmanager
def _generating(model: nn.Module, pair: _Pair) -> Iterator[None]:
    """Counts the calls of ``model.generate`` that are under way, which some methods answer otherwise than scoring."""
    if isinstance(model, nn.parallel.DistributedDataParallel):  # which has no generate of its own
        yield
        return
    before = vars(model).get("generate")
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]

    def counted(*args: Any, **kwargs: Any) -> Any:
        pair.depth += 1
        try:
            return generate(*args, **kwargs)
        finally:
            pair.depth -= 1

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
