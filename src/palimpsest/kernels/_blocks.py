"""The walk over the blocks of logits: a thousand vocabulary entries for all tokens, in two small buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from palimpsest.kernels._shards import Shards

__all__ = ["Block", "Options", "Part", "Problem", "working_dtype"]

TOKENS = 2048  # rows of one block: more do not make the matrix products faster, only the buffers larger


@dataclass(frozen=True)
class Options:
    """What is not a tensor; ``chunk`` entries are computed at a time, at most as many as the weight has."""

    softcap: float | None
    scale: float
    ignore_index: int
    chunk: int
    even: bool
    log_sum: bool
    shards: Shards | None


@dataclass(frozen=True)
class Block:
    """Logits and their softmax for the tokens ``rows`` over the vocabulary entries from ``start`` on."""

    rows: slice
    hidden: Tensor  # [n, D]
    logits: Tensor  # [n, v], valid until the next block
    probability: Tensor  # [n, v], normalized within the block, valid until the next block
    log_sum: Tensor  # [n], log-sum-exp within the block
    hit: Tensor  # [k], rows of this block whose target is among its entries
    column: Tensor  # [k], where

    def apply_softcap_slope(self, softcap: float | None) -> None:
        """Multiply ``probability`` (by now a gradient) by d capped / d raw = 1 - (z / softcap)^2; spends ``logits``."""
        if softcap is not None:
            self.probability.sub_(self.logits.div_(softcap).square_().mul_(self.probability))


@dataclass(frozen=True)
class Part:
    """The head's entries [start, stop), raised to the working precision."""

    start: int
    stop: int
    weight: Tensor  # [v, D]
    bias: Tensor | None  # [v]


class Problem:
    """The tokens that count, as [N, D] and [N], and the walk over the blocks of their logits."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        index: Tensor | None,
        options: Options,
    ) -> None:
        self.weight, self.bias, self.options = weight, bias, options
        self.dtype = working_dtype(hidden, weight, bias)
        flat = hidden.reshape(-1, hidden.shape[-1])
        own = targets.reshape(-1) if index is None else targets.reshape(-1)[index]
        self.hidden = (flat if index is None else flat[index]).to(self.dtype)  # [N, D]
        self.targets = own if options.shards is None else own - options.shards.first  # [N]

    @cached_property
    def buffers(self) -> Tensor:
        """Room for the logits of one block, and for their softmax."""
        return self.hidden.new_empty(2, min(len(self.targets), TOKENS) * self.options.chunk)

    def drop_buffers(self) -> None:
        """Gives that room back, if it was ever taken."""
        self.__dict__.pop("buffers", None)

    def parts(self) -> Iterator[Part]:
        """The head, ``chunk`` entries after the other."""
        entries = self.weight.shape[0]
        for start in range(0, entries, self.options.chunk):
            stop = min(start + self.options.chunk, entries)
            bias = None
            if self.bias is not None:
                # A block that a bias of -inf masks as a whole would have no softmax; half the lowest number is still
                # e^-lots = 0 beside any other block, and leaves room for what is added to it.
                bias = self.bias[start:stop].to(self.dtype).clamp(min=torch.finfo(self.dtype).min / 2)
            yield Part(start, stop, self.weight[start:stop].to(self.dtype), bias)

    def blocks(self, part: Part) -> Iterator[Block]:
        """All tokens over one part."""
        for first in range(0, len(self.targets), TOKENS):
            rows = slice(first, min(first + TOKENS, len(self.targets)))
            yield self.block(part, rows, *self.buffers)

    def block(self, part: Part, rows: slice, for_logits: Tensor, for_probability: Tensor) -> Block:
        """One block, in the first numbers of two flat buffers."""
        hidden, targets = self.hidden[rows], self.targets[rows]
        shape = (hidden.shape[0], part.stop - part.start)
        z, p = (buffer[: shape[0] * shape[1]].view(shape) for buffer in (for_logits, for_probability))
        z.addmm_(hidden, part.weight.T, beta=0, alpha=self.options.scale)
        if part.bias is not None:
            z.add_(part.bias)
        if self.options.softcap is not None:
            z.div_(self.options.softcap).tanh_().mul_(self.options.softcap)
        torch.softmax(z, dim=1, out=p)
        # The largest probability of a row is exp(max z) / sum exp z.  PyTorch's softmax has a fast exponential on CPU,
        # which torch.exp and torch.logsumexp lack: this way to the log-sum-exp costs a fifth of torch.logsumexp.
        log_sum = z.amax(dim=1) - p.amax(dim=1).log()
        hit = ((targets >= part.start) & (targets < part.stop)).nonzero().squeeze(1)
        return Block(rows, hidden, z, p, log_sum, hit, targets[hit] - part.start)

    def mask(self, chosen: Tensor, targets: Tensor) -> None:
        """The logits ``chosen`` of targets that a bias of -inf masks become -inf again."""
        if self.bias is not None and self.options.softcap is None:
            here = (targets >= 0) & (targets < len(self.bias))
            masked = self.bias[targets.clamp(0, len(self.bias) - 1)] == -torch.inf
            chosen.masked_fill_(here & masked, -torch.inf)


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if one of them is, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
