"""Log-probability of the targets under a linear head, without ever holding the logits of all tokens.

    z_iv = scale * h_i . w_v + b_v    z <- softcap * tanh(z / softcap)    log p_i = z_{i, y_i} - log sum_v exp z_iv

Plain PyTorch writes z, its log-softmax and the gradient of z: three arrays of [N, V].  Here blocks of a thousand
vocabulary entries for all tokens pass through two small buffers; a running log-sum-exp joins them.  The backward
computes each block again, so it costs four matrix products where the plain way has three, and saves the traffic of
the three arrays.  With a frozen head nothing is computed again: the direction
d log p_i / d h_i = scale * (w_{y_i} - sum_v p_iv w_v) is collected in the forward and only scaled in the backward.
Nor is it where the caller says that every token will get the same upstream gradient (``even``), as a mean does: then
all gradients are made in the forward, in three products.  The softmax of the first D tokens waits, until its sum is
known, in the memory of dW, whose rows it becomes; further tokens come a few at a time with the whole vocabulary.

Paper: Cut Your Losses in Large-Vocabulary Language Models (Wijmans et al., 2025), arXiv 2411.09009, algorithms 1-3.
Tags: learn, loss, kernel, language-model.
Differs: whole blocks of the vocabulary instead of tiles; no gradient filter and no vocabulary sorting, which pay only
where a tile can be skipped; one value per token of log p (not its negative), any upstream gradient; deterministic.
See: ``linear_logits`` for methods that need all logits; ``cut_cross_entropy``, whose kernels do this on CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palimpsest.kernels._at_once import with_gradients
from palimpsest.kernels._blocks import Options, Problem, working_dtype
from palimpsest.kernels._inputs import check_inputs, gather, scatter
from palimpsest.kernels._shards import Shards

__all__ = ["METHOD", "linear_log_probability", "linear_logits", "log_probability_and_log_sum"]

ENTRIES = 1024  # columns of one block, unless the caller says otherwise


def linear_log_probability(
    hidden: Tensor,  # [..., D]
    weight: Tensor,  # [V, D]
    targets: Tensor,  # [...]
    bias: Tensor | None = None,  # [V]
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    ignore_index: int = -100,
    chunk: int | None = None,
    even: bool = False,
) -> Tensor:
    """Natural-log probability of each target, [...], at most 0 and exactly 0 where ``targets == ignore_index``.

    The result is float32 (float64 if an input is), whatever the inputs' precision: half-precision inputs are raised
    block by block before the product, so log p is not rounded as half-precision logits are.  Gradients have the
    dtypes of their inputs and are exact to rounding for any upstream gradient; they can be taken once only
    (RuntimeError under ``create_graph=True``).

    ``targets`` are int64 in [0, V) or ``ignore_index``; ignored tokens cost nothing.  ``softcap`` is the tanh cap of
    the logits (None: none), ``scale`` multiplies them before the bias, ``chunk`` is the number of vocabulary entries
    computed at a time: the extra memory is about 8 * min(N, 2048) * chunk bytes.  ``even`` expects one upstream
    gradient for all counted tokens: the gradients are then made in the forward, beside at most 1/16 of the logits
    (or 4 MiB); should it turn out otherwise, they are computed again, exactly.  On CUDA neither hint counts.

    Raises ValueError for shapes that do not fit, targets outside the vocabulary, ``chunk < 1`` or ``softcap <= 0``.
    """
    check_inputs("linear_log_probability", hidden, weight, targets, bias, softcap, ignore_index, chunk)
    if hidden.is_cuda:
        from palimpsest.kernels.cut_cross_entropy import by_triton, negative_log_probability

        if by_triton(hidden, weight, bias):
            return -negative_log_probability(hidden, weight, targets, bias, softcap, scale, ignore_index)
    given = (hidden, weight, targets, bias, softcap, scale, ignore_index, chunk, even)
    return log_probability_and_log_sum(*given, log_sum=False)[0]


def log_probability_and_log_sum(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    scale: float,
    ignore_index: int,
    chunk: int | None = None,
    even: bool = False,
    log_sum: bool = True,
    shards: Shards | None = None,
) -> tuple[Tensor, Tensor]:
    """What ``linear_log_probability`` computes on any device, unchecked, and each token's log-sum-exp, 0 where ignored.

    Both can be differentiated, the second only with ``log_sum``; ``shards`` says what of a group's weight this is.
    """
    if not torch.is_grad_enabled():  # inside the Function grad mode is always off: requires_grad would mislead it
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    options = Options(softcap, scale, ignore_index, min(chunk or ENTRIES, weight.shape[0]), even, log_sum, shards)
    result: tuple[Tensor, Tensor] = _LinearLogProbability.apply(hidden, weight, bias, targets, options)  # type: ignore[no-untyped-call]
    return result


def linear_logits(
    hidden: Tensor,  # [..., D]
    weight: Tensor,  # [V, D]
    bias: Tensor | None = None,  # [V]
    softcap: float | None = None,
    scale: float = 1.0,
) -> Tensor:
    """All logits [..., V] by the formula of ``linear_log_probability`` and in its precision (float32 or float64)."""
    dtype = working_dtype(hidden, weight, bias)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(hidden.to(dtype), weight.to(dtype))  # [..., V]
        if scale != 1.0:
            logits = logits * scale
        if bias is not None:
            logits = logits + bias.to(dtype)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _log_probability(problem: Problem, with_direction: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """log p [N], the log-sum-exp [N] and, if asked for, d log p_i / d h_i [N, D]."""
    softcap, scale = problem.options.softcap, problem.options.scale
    mean = torch.zeros_like(problem.hidden) if with_direction else None  # sum_v p_v w_v [N, D]
    log_sum, chosen = _sums(problem, mean)
    problem.mask(chosen, problem.targets)
    if problem.options.shards is not None:
        log_sum, chosen = problem.options.shards.joined(log_sum, chosen)
    log_p = chosen - log_sum
    if mean is None:
        return log_p, log_sum, None
    problem.drop_buffers()
    direction = problem.weight[problem.targets].to(problem.dtype)  # [N, D]
    if softcap is not None:
        direction.mul_(1 - (chosen / softcap).square().unsqueeze(1))
    return log_p, log_sum, direction.sub_(mean).mul_(scale)


def _sums(problem: Problem, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """The log-sum-exp and the target's logit of each token [N]; the mean row of the head is added to ``mean``."""
    log_sum = problem.hidden.new_full((len(problem.targets),), -torch.inf)
    chosen = torch.zeros_like(log_sum)
    for part in problem.parts():
        for block in problem.blocks(part):
            rows, before = block.rows, log_sum[block.rows].clone()
            log_sum[rows] = torch.logaddexp(before, block.log_sum)
            chosen[rows][block.hit] = block.logits[block.hit, block.column]
            if mean is not None:
                block.probability.mul_((block.log_sum - log_sum[rows]).exp().unsqueeze(1))
                block.apply_softcap_slope(problem.options.softcap)
                mean[rows].mul_((before - log_sum[rows]).exp().unsqueeze(1)).addmm_(block.probability, part.weight)
    return log_sum, chosen


def _gradients(
    problem: Problem, log_sum: Tensor, upstream: Tensor, of_sum: Tensor | None, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to the counted tokens' hidden states [N, D], the weight [V, D] and the bias [V].

    ``upstream`` is that of log p, ``of_sum`` that of the log-sum-exp.
    """
    scale, empty = problem.options.scale, len(problem.targets) == 0
    new = torch.zeros_like if empty else torch.empty_like  # every entry is written below, if there is a token
    for_hidden = torch.zeros_like(problem.hidden) if needs[0] else None
    for_weight = new(problem.weight) if needs[1] else None
    for_bias = torch.zeros_like(problem.bias) if needs[2] and problem.bias is not None else None
    of_all = -upstream if of_sum is None else of_sum - upstream
    for part in problem.parts():
        weight_sum = torch.empty(0)
        if for_weight is not None:
            own = for_weight[part.start : part.stop]
            weight_sum = own if own.dtype == problem.dtype else own.to(problem.dtype)
        bias_sum = problem.hidden.new_zeros(part.stop - part.start)
        for block in problem.blocks(part):
            rows = block.rows
            signal = block.probability.mul_((of_all[rows] * (block.log_sum - log_sum[rows]).exp()).unsqueeze(1))
            signal[block.hit, block.column] += upstream[rows][block.hit]
            block.apply_softcap_slope(problem.options.softcap)
            if for_hidden is not None:
                for_hidden[rows].addmm_(signal, part.weight, alpha=scale)
            if for_weight is not None:
                weight_sum.addmm_(signal.T, block.hidden, beta=int(rows.start > 0), alpha=scale)
            if for_bias is not None:
                bias_sum.add_(signal.sum(dim=0))
        if for_weight is not None and weight_sum.dtype != for_weight.dtype:
            for_weight[part.start : part.stop] = weight_sum
        if for_bias is not None:
            for_bias[part.start : part.stop] = bias_sum
    if for_hidden is not None and problem.options.shards is not None:
        problem.options.shards.add(for_hidden)
    return for_hidden, for_weight, for_bias


class _LinearLogProbability(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        counted = targets.reshape(-1) != options.ignore_index
        index = None if bool(counted.all()) else counted.nonzero().squeeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            problem = Problem(hidden, weight, bias, targets, index, options)
            needs = ctx.needs_input_grad[:3]
            ctx.only_hidden = needs == (True, False, False) and not options.log_sum and options.shards is None
            direction, ctx.even = None, None
            at_once = options.even and any(needs) and not ctx.only_hidden and options.shards is None
            if at_once and weight.dtype == problem.dtype:
                made = with_gradients(problem, needs)
                log_p, log_sum, ctx.even = made.log_p, made.log_sum, (made.for_hidden, made.for_weight, made.for_bias)
            else:
                log_p, log_sum, direction = _log_probability(problem, with_direction=ctx.only_hidden)
        ctx.options, ctx.shape, ctx.dtype = options, hidden.shape, hidden.dtype
        ctx.set_materialize_grads(False)
        if ctx.only_hidden:
            ctx.save_for_backward(direction, index)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets, index, log_sum)
        sums = scatter(log_sum.clone(), index, targets.shape)
        if not options.log_sum:
            ctx.mark_non_differentiable(sums)
        return scatter(log_p, index, targets.shape), sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, of_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True; once_differentiable lets that pass where upstream is constant
            raise RuntimeError(
                "linear_log_probability: gradients can be taken once only; "
                "where a gradient is differentiated (create_graph=True) start from linear_logits."
            )
        if upstream is None and of_sum is None:
            return (None,) * 5
        if ctx.only_hidden and upstream is not None:
            direction, index = ctx.saved_tensors
            g = gather(upstream, index).to(direction.dtype)
            return scatter((direction * g.unsqueeze(1)).to(ctx.dtype), index, ctx.shape), None, None, None, None
        hidden, weight, bias, targets, index, log_sum = ctx.saved_tensors
        g = torch.zeros_like(log_sum) if upstream is None else gather(upstream, index).to(log_sum.dtype)
        of_sum = None if of_sum is None else gather(of_sum, index).to(log_sum.dtype)
        made, ctx.even = ctx.even, None  # used up: a second backward computes them again
        if made is not None and of_sum is None and bool((g == g[:1]).all()):
            for_hidden, for_weight, for_bias = (m if m is None or not len(g) else m.mul_(g[0]) for m in made)
            del made  # a gradient that somebody else holds would be copied
        else:
            with torch.autocast(hidden.device.type, enabled=False):
                problem = Problem(hidden, weight, bias, targets, index, ctx.options)
                for_hidden, for_weight, for_bias = _gradients(problem, log_sum, g, of_sum, ctx.needs_input_grad[:3])
        if for_hidden is not None:
            for_hidden = scatter(for_hidden.to(ctx.dtype), index, ctx.shape)
        return for_hidden, for_weight, for_bias, None, None


METHOD = linear_log_probability
