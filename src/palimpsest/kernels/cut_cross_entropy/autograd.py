"""The loss by Triton as PyTorch differentiates it: one value a token and its log-sum-exp, any upstream gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palimpsest.kernels._shards import Shards
from palimpsest.kernels.cut_cross_entropy.driver import Head, Upstream, exact_gradients, log_sums, target_logits
from palimpsest.kernels.cut_cross_entropy.filtered import filtered_gradients

__all__ = ["Options", "cross_entropy_and_log_sum"]

FEW = 1 / 8  # of the tokens: so many ignored ones cost less than a copy of the others


@dataclass(frozen=True)
class Options:
    """What is not a tensor."""

    softcap: float | None = None
    scale: float = 1.0
    ignore_index: int = -100
    filter_eps: float | None = None
    rounded: bool = False
    shards: Shards | None = None


def cross_entropy_and_log_sum(
    e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Negative log-probability of each target and log-sum-exp of all logits, [...] in float32, zero where ignored.

    Under autocast the products are those of its precision, as a linear layer's are; sums stay float32.
    """
    if torch.is_autocast_enabled(e.device.type):
        lower = torch.get_autocast_dtype(e.device.type)
        e, c = e.to(lower), c.to(lower)
    if not torch.is_grad_enabled():  # inside the Function grad mode is always off, and requires_grad would mislead it
        e, c, bias = e.detach(), c.detach(), None if bias is None else bias.detach()
    if e.dtype != c.dtype:
        common = torch.promote_types(e.dtype, c.dtype)
        e, c = e.to(common), c.to(common)
    result: tuple[Tensor, Tensor] = _CutCrossEntropy.apply(e, c, bias, targets, options)  # type: ignore[no-untyped-call]
    return result


class _CutCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, e: Tensor, c: Tensor, bias: Tensor | None, targets: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        counted = targets.reshape(-1) != options.ignore_index  # [N]
        index = _index(counted)
        rows, own = _rows(e, index), _taken(targets, index)
        if options.shards is not None:
            own = own - options.shards.first
        own = own.masked_fill(~_taken(counted, index), -1)
        head = _head(c, bias, options)
        keep = options.filter_eps is not None and any(ctx.needs_input_grad)
        if len(rows):
            lse, blocks = log_sums(rows, head, keep)
            chosen = target_logits(rows, head, own)
        else:
            lse, chosen, blocks = rows.new_zeros(0, dtype=torch.float32), rows.new_zeros(0, dtype=torch.float32), None
        if options.shards is not None:
            lse, chosen = options.shards.joined(lse, chosen)
        ctx.options, ctx.shape = options, e.shape
        ctx.save_for_backward(e, c, bias, own, index, lse, blocks, counted)
        ctx.set_materialize_grads(False)
        nll = (lse - chosen).clamp_(min=0.0)  # below by rounding, where the target has all the probability
        return _put(nll, index, counted, targets.shape), _put(lse, index, counted, targets.shape)

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor | None, of_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_cross_entropy: gradients can be taken once only; where a gradient is differentiated "
                "(create_graph=True) start from palimpsest.kernels.linear_log_probability.linear_logits."
            )
        e, c, bias, own, index, lse, blocks, counted = ctx.saved_tensors
        options: Options = ctx.options
        if of_loss is None and of_sum is None:
            return (None,) * 5
        of_target, of_lse = (_upstream(g, index, counted, lse) for g in (of_loss, of_sum))
        upstream = Upstream(own, lse, of_target + of_lse, of_target)
        rows, head = _rows(e, index), _head(c, bias, options)
        needs, gather = ctx.needs_input_grad[:3], None if options.shards is None else options.shards.add
        if not len(rows):
            nothing = [torch.zeros_like(t) if n and t is not None else None for t, n in zip((e, c, bias), needs)]
            return (*nothing, None, None)
        made = None
        if blocks is not None and options.filter_eps is not None:
            made = filtered_gradients(rows, head, upstream, needs, blocks, options.filter_eps, options.shards)
        if made is None:
            made = exact_gradients(rows, head, upstream, needs, options.rounded, gather)
        for_hidden, for_weight, for_bias = made
        if for_hidden is not None and index is not None:
            for_hidden = torch.zeros_like(e).view(-1, e.shape[-1]).index_copy_(0, index, for_hidden)
        return None if for_hidden is None else for_hidden.view(ctx.shape), for_weight, for_bias, None, None


def _head(c: Tensor, bias: Tensor | None, options: Options) -> Head:
    """As the kernels read it: number after number."""
    return Head(c.contiguous(), None if bias is None else bias.contiguous(), options.softcap, options.scale)


def _index(counted: Tensor) -> Tensor | None:
    """Which tokens to take, where many are ignored; None where all rows are computed, the ignored for nothing."""
    ignored = int((~counted).sum())
    return counted.nonzero().squeeze(1) if ignored > FEW * len(counted) or ignored == len(counted) else None


def _rows(e: Tensor, index: Tensor | None) -> Tensor:
    flat = e.reshape(-1, e.shape[-1])
    return flat.contiguous() if index is None else flat[index]


def _taken(values: Tensor, index: Tensor | None) -> Tensor:
    flat = values.reshape(-1)
    return flat if index is None else flat[index]


def _upstream(g: Tensor | None, index: Tensor | None, counted: Tensor, lse: Tensor) -> Tensor:
    """In float32, zero for tokens that do not count."""
    if g is None:
        return torch.zeros_like(lse)
    taken = _taken(g, index).to(torch.float32)
    return taken if index is not None else taken.masked_fill(~counted, 0.0)


def _put(values: Tensor, index: Tensor | None, counted: Tensor, shape: torch.Size) -> Tensor:
    """At their places among all tokens, zero elsewhere."""
    if index is None:
        return torch.where(counted, values, 0.0).view(shape)
    return values.new_zeros(len(counted)).index_copy_(0, index, values).view(shape)
