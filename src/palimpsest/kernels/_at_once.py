"""All gradients in the forward, where every token gets the same upstream gradient: three products instead of four.

The softmax of a token is known only when all its logits have been seen.  Until then it needs room, and dW has room for
D tokens: the softmax of some entries lies where their rows of dW will be.  Further tokens come a few at a time, with
the whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.kernels._blocks import Problem

__all__ = ["Made", "with_gradients"]

EVEN_LOGITS = 2**20  # logits that a block of whole rows may always hold: fewer rows would slow the products


@dataclass(frozen=True)
class Made:
    """What the forward makes at once: log p and the log-sum-exp of each token, the gradients of the sum of log p."""

    log_p: Tensor  # [N]
    log_sum: Tensor  # [N]
    for_hidden: Tensor | None  # [N, D]
    for_weight: Tensor | None  # [V, D]
    for_bias: Tensor | None  # [V]


def with_gradients(problem: Problem, needs: tuple[bool, bool, bool]) -> Made:
    """All of it for all tokens: the first D of them in the memory of dW, the others a block of tokens at a time."""
    log_p, log_sum = problem.hidden.new_empty(2, len(problem.targets))
    for_hidden = torch.zeros_like(problem.hidden) if needs[0] else None
    for_weight = problem.weight.new_zeros(problem.weight.shape) if needs[1] else None
    for_bias = torch.zeros_like(problem.bias) if needs[2] and problem.bias is not None else None
    made, first = Made(log_p, log_sum, for_hidden, for_weight, for_bias), 0
    if for_weight is not None:
        first = min(len(log_p), for_weight.shape[1])
        _inside_the_weight(problem, made, for_weight, first)
    _by_tokens(problem, made, first)
    return made


def _inside_the_weight(problem: Problem, made: Made, for_weight: Tensor, count: int) -> None:
    """The first ``count`` <= D tokens, whose softmax over a part of the head lies where that part's dW will be."""
    if not count:
        return
    rows, scale, softcap = slice(0, count), problem.options.scale, problem.options.softcap
    chosen, log_sum = problem.hidden.new_zeros(count), problem.hidden.new_full((count,), -torch.inf)
    room = problem.hidden.new_empty(count * problem.options.chunk)
    blocks = []
    for part in problem.parts():
        block = problem.block(part, rows, room, for_weight[part.start : part.stop].view(-1))
        torch.logaddexp(log_sum, block.log_sum, out=log_sum)
        chosen[block.hit] = block.logits[block.hit, block.column]
        block.apply_softcap_slope(softcap)
        blocks.append(block)
    slope = torch.ones_like(chosen) if softcap is None else 1 - (chosen / softcap).square()
    for part, block in zip(problem.parts(), blocks, strict=True):
        share = (block.log_sum - log_sum).exp().neg_().unsqueeze(1)
        signal = torch.mul(block.probability, share, out=block.logits)  # d log p / d z [n, v]
        signal[block.hit, block.column] += slope[block.hit]
        for_weight[part.start : part.stop].addmm_(signal.T, block.hidden, beta=0, alpha=scale)
        if made.for_hidden is not None:
            made.for_hidden[rows].addmm_(signal, part.weight, alpha=scale)
        if made.for_bias is not None:
            made.for_bias[part.start : part.stop] = signal.sum(dim=0)
    problem.mask(chosen, problem.targets[rows])
    made.log_p[rows], made.log_sum[rows] = chosen - log_sum, log_sum


def _by_tokens(problem: Problem, made: Made, first: int) -> None:
    """The tokens from ``first`` on, a block of a few with the whole vocabulary at a time."""
    count, scale, softcap = len(problem.targets), problem.options.scale, problem.options.softcap
    weight, bias = problem.weight, problem.bias
    most = max(1, count // 18, EVEN_LOGITS // len(weight))  # with what lies beside it, a sixteenth of the logits
    most = min(most - most % 16 or most, max(1, count - first))  # full vectors: 112 tokens take less time than 113
    # Transposed: the weight, read as it lies, costs a fifth less in products with few tokens.
    buffer = problem.hidden.new_empty(len(weight) * most if first < count else 0)  # [V, n]
    for start in range(first, count, most):
        rows = slice(start, min(start + most, count))
        hidden, targets = problem.hidden[rows], problem.targets[rows]
        z = buffer[: len(weight) * len(hidden)].view(len(weight), len(hidden))
        torch.mm(weight, hidden.T, out=z)
        if scale != 1.0:
            z.mul_(scale)
        if bias is not None:
            z.add_(bias.unsqueeze(1))
        made.log_p[rows], made.log_sum[rows], signal = _signal(z, targets, softcap)
        if made.for_hidden is not None:
            made.for_hidden[rows].addmm_(signal.T, weight, beta=0, alpha=scale)
        if made.for_weight is not None:
            made.for_weight.addmm_(signal, hidden, alpha=scale)
        if made.for_bias is not None:
            made.for_bias.add_(signal.sum(dim=1))


def _signal(z: Tensor, targets: Tensor, softcap: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """log p [n], the log-sum-exp [n] and d log p / d z of the uncapped logits z [V, n], which this spends."""
    if softcap is not None:
        z.div_(softcap).tanh_().mul_(softcap)
    slope = None if softcap is None else (z / softcap).square_()
    highest, chosen = z.amax(dim=0), z.gather(0, targets.unsqueeze(0)).squeeze(0)
    torch.softmax(z, dim=0, out=z)
    log_sum = highest - z.amax(dim=0).log()  # as in ``Problem.block``
    signal = z.neg_().scatter_add_(0, targets.unsqueeze(0), torch.ones_like(chosen).unsqueeze(0))
    if slope is not None:
        signal.sub_(slope.mul_(signal))
    return chosen - log_sum, log_sum, signal
