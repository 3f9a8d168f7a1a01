"""The public function: checks, the choice of a way to compute it, the reduction."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args, overload

import torch
import torch.distributed as dist
from torch import Tensor

from palimpsest.kernels._inputs import check_inputs
from palimpsest.kernels._shards import Shards
from palimpsest.kernels.linear_log_probability import linear_logits, log_probability_and_log_sum

__all__ = ["by_triton", "linear_cross_entropy", "negative_log_probability"]

PLACE = "linear_cross_entropy"
Reduction = Literal["mean", "sum", "none"]
Backend = Literal["auto", "triton", "chunked", "compile"]


@overload
def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    softcap: float | None = None,
    ignore_index: int = -100,
    shift: int = 0,
    reduction: Reduction = "mean",
    return_lse: Literal[False] = False,
    filter_eps: float | None = None,
    accumulate: torch.dtype = torch.float32,
    scale: float = 1.0,
    process_group: dist.ProcessGroup | None = None,
    backend: Backend = "auto",
) -> Tensor: ...


@overload
def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    softcap: float | None = None,
    ignore_index: int = -100,
    shift: int = 0,
    reduction: Reduction = "mean",
    return_lse: Literal[True],
    filter_eps: float | None = None,
    accumulate: torch.dtype = torch.float32,
    scale: float = 1.0,
    process_group: dist.ProcessGroup | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


def linear_cross_entropy(
    e: Tensor,  # [..., D]
    c: Tensor,  # [V, D]
    targets: Tensor,  # [...]
    bias: Tensor | None = None,  # [V]
    *,
    softcap: float | None = None,
    ignore_index: int = -100,
    shift: int = 0,
    reduction: Reduction = "mean",
    return_lse: bool = False,
    filter_eps: float | None = None,
    accumulate: torch.dtype = torch.float32,
    scale: float = 1.0,
    process_group: dist.ProcessGroup | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(scale * e @ c.T + bias), as ``F.cross_entropy`` of those logits, which are never stored.

    The result is float32 (float64 if an input is).  ``mean`` divides by the number of counted targets and is 0 where
    none counts; ``none`` has the targets' shape, 0 where ignored.  With ``shift`` k, embedding i along the last
    dimension is scored against target i + k, and ``none`` is k shorter.  ``return_lse`` adds the log-sum-exp of each
    token's logits, shaped as ``none``; its gradient is not divided by anything, so a penalty on it names its own mean.
    Gradients may be taken with any upstream and skip what needs none, a frozen ``c`` or a frozen ``e``; they can be
    taken once only.  An ``e`` and a ``c`` of two precisions meet in the wider.  Under autocast Triton multiplies in its
    precision, as ``F.linear`` does; the way of the CPU stays float32.

    ``filter_eps`` lets the Triton kernels leave out, in the backward, those blocks of a token's vocabulary that have
    together at most this share of its probability, its target's block never: the error of a row of dE is at most
    filter_eps * max |c| times its upstream gradient.  None, and every other way to compute, is exact to rounding.

    ``accumulate`` is float32, or the inputs' dtype to allow sums over chunks to be rounded in between where that saves
    work.  ``softcap`` is the tanh cap of the logits.  ``process_group``: its processes hold consecutive entries of
    ``c`` and ``bias`` in the order of their ranks, and the same ``e`` and ``targets``; the gradient of ``e`` is that of
    all.  ``backend`` is chosen by the device: ``triton`` on CUDA, ``chunked`` on CPU, ``compile`` elsewhere.

    Raises ValueError for shapes that do not fit, targets outside the vocabulary, and a backend that cannot take them.
    """
    _check(e, c, targets, shift, reduction, filter_eps, accumulate, backend)
    shards = None if process_group is None else Shards.of(process_group, c)
    if shift:
        targets = _shifted(targets, shift, ignore_index)
    entries = None if shards is None else shards.entries
    check_inputs(PLACE, e, c, targets, bias, softcap, ignore_index, entries=entries)
    chosen = _backend(e, c, bias, process_group) if backend == "auto" else backend
    _check_backend(chosen, e, c, bias, process_group)
    if chosen == "triton":
        from palimpsest.kernels.cut_cross_entropy.autograd import Options, cross_entropy_and_log_sum

        options = Options(softcap, scale, ignore_index, filter_eps, accumulate != torch.float32, shards)
        nll, lse = cross_entropy_and_log_sum(e, c, targets, bias, options)
    elif chosen == "compile":
        nll, lse = _compiled()(e, c, targets, bias, softcap, scale, ignore_index)
    else:
        given = (e, c, targets, bias, softcap, scale, ignore_index, None, reduction != "none")
        log_p, lse = log_probability_and_log_sum(*given, log_sum=return_lse, shards=shards)
        nll = -log_p
    if shift:
        nll, lse = nll[..., :-shift], lse[..., :-shift]
    nll = _reduced(nll, targets, ignore_index, reduction)
    return (nll, lse) if return_lse else nll


def _reduced(nll: Tensor, targets: Tensor, ignore_index: int, reduction: Reduction) -> Tensor:
    """The sum, or the mean over the targets that count; ``none`` leaves all of them."""
    if reduction == "none":
        return nll
    total = nll.sum()
    return total if reduction == "sum" else total / (targets != ignore_index).sum().clamp(min=1)


def negative_log_probability(
    e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None, scale: float, ignore_index: int
) -> Tensor:
    """One value a token by Triton, for ``linear_log_probability``, which has checked its inputs."""
    from palimpsest.kernels.cut_cross_entropy.autograd import Options, cross_entropy_and_log_sum

    return cross_entropy_and_log_sum(e, c, targets, bias, Options(softcap, scale, ignore_index))[0]


def by_triton(e: Tensor, c: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels can take these: on a CUDA device, and in a precision that they know.

    AMD's cards call themselves CUDA devices too, and have no room for the tiles.
    """
    if not (e.is_cuda and torch.version.hip is None and _has_triton()):
        return False
    dtypes = {t.dtype for t in (e, c, bias) if t is not None}
    known = {torch.float32, torch.float16, torch.bfloat16}
    return dtypes <= known and torch.cuda.get_device_capability(e.device)[0] >= 8


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _backend(e: Tensor, c: Tensor, bias: Tensor | None, group: dist.ProcessGroup | None) -> Backend:
    if by_triton(e, c, bias):
        return "triton"
    return "chunked" if e.device.type in ("cpu", "cuda") or group is not None else "compile"


def _check_backend(
    backend: Backend, e: Tensor, c: Tensor, bias: Tensor | None, group: dist.ProcessGroup | None
) -> None:
    """Refuses what a backend asked for by name would compute wrongly, or fail at with a compiler's words."""
    if backend == "compile" and group is not None:
        raise ValueError(f"{PLACE}: the backend compile knows no process_group; leave backend out.")
    if backend == "triton" and not (by_triton(e, c, bias) or _interpreted()):
        raise ValueError(
            f"{PLACE}: the backend triton takes float32, float16 and bfloat16 on a CUDA device of compute capability 8"
            " or more, or anywhere in Triton's interpreter (TRITON_INTERPRET=1); leave backend out."
        )


def _interpreted() -> bool:
    return _has_triton() and os.environ.get("TRITON_INTERPRET") == "1"


def _full(
    e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None, scale: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """By all logits, for a compiler to fuse."""
    logits = linear_logits(e, c, bias, softcap, scale)
    counted = targets != ignore_index
    lse = torch.where(counted, logits.logsumexp(-1), 0.0)
    picked = logits.gather(-1, targets.masked_fill(~counted, 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(counted, lse - picked, 0.0), lse


@cache
def _compiled():  # type: ignore[no-untyped-def]
    return torch.compile(_full, dynamic=True)


def _shifted(targets: Tensor, shift: int, ignore_index: int) -> Tensor:
    """Target i + shift at place i, so that the embeddings need no copy; none at the last places."""
    moved = torch.full_like(targets, ignore_index)
    moved[..., :-shift] = targets[..., shift:]
    return moved


def _check(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    shift: int,
    reduction: str,
    filter_eps: float | None,
    accumulate: torch.dtype,
    backend: str,
) -> None:
    sharded = sys.modules.get("torch.distributed.tensor")
    if sharded is not None and any(isinstance(t, sharded.DTensor) for t in (e, c, targets)):
        raise ValueError(f"{PLACE}: pass local tensors (DTensor.to_local() or .full_tensor()), not DTensors.")
    if reduction not in get_args(Reduction):
        raise ValueError(f"{PLACE}: reduction must be one of {', '.join(get_args(Reduction))}, not {reduction!r}.")
    if backend not in get_args(Backend):
        raise ValueError(f"{PLACE}: backend must be one of {', '.join(get_args(Backend))}, not {backend!r}.")
    length = targets.shape[-1] if targets.dim() else 1
    if not 0 <= shift < max(length, 1):
        raise ValueError(f"{PLACE}: shift must be at least 0 and below the {length} targets of a row, not {shift}.")
    if filter_eps is not None and not 0 < filter_eps < 1:
        raise ValueError(f"{PLACE}: filter_eps is a share of probability between 0 and 1, or None, not {filter_eps}.")
    if accumulate not in (torch.float32, e.dtype):
        raise ValueError(f"{PLACE}: accumulate must be torch.float32 or the inputs' {e.dtype}, not {accumulate}.")
