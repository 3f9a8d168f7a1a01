"""Runs the Triton kernels: log-sum-exps and target logits forward, and the planned steps of the exact backward.

Tensors on the CPU are served by Triton's interpreter, so that all of this is tested without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from palimpsest.kernels.cut_cross_entropy.kernels import log_sum_kernel, signal_kernel, target_kernel
from palimpsest.kernels.cut_cross_entropy.plan import Room, Shape, Step, plan
from palimpsest.kernels.cut_cross_entropy.tiles import Tile, tiles_for

__all__ = ["BLOCK", "Head", "Upstream", "add_product", "exact_gradients", "log_sums", "on", "target_logits"]

BLOCK = 1024  # entries whose log-sum-exp the forward keeps for the filter
SLICES = 32  # at most: of the vocabulary, in the forward


@dataclass(frozen=True)
class Head:
    """The output layer: weight [V, D], contiguous; bias [V]."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    scale: float

    def between(self, first: int, stop: int) -> Head:
        """Some of its entries."""
        bias = None if self.bias is None else self.bias[first:stop]
        return Head(self.weight[first:stop], bias, self.softcap, self.scale)

    def arguments(self) -> dict[str, Any]:
        """What every kernel that makes logits asks of it."""
        return {
            "bias": self.weight if self.bias is None else self.bias,
            "scale": float(self.scale),
            "softcap": float(self.softcap or 1.0),
            "BIAS": self.bias is not None,
            "CAP": self.softcap is not None,
        }


@dataclass(frozen=True)
class Upstream:
    """Per token [N]: where its target is, its log-sum-exp, and how the loss moves with all its logits and with one.

    d loss / d z_iv = of_all_i exp(z_iv - lse_i) - of_target_i [v = target_i].  A token that does not count has zeros.
    """

    targets: Tensor
    lse: Tensor
    of_all: Tensor
    of_target: Tensor

    def rows(self, first: int, stop: int) -> Upstream:
        """Some of the tokens."""
        return Upstream(*(t[first:stop] for t in (self.targets, self.lse, self.of_all, self.of_target)))

    def arguments(self) -> dict[str, Tensor]:
        """As the kernels call them."""
        return {"targets": self.targets, "lse": self.lse, "of_all": self.of_all, "of_target": self.of_target}

    def unit(self) -> tuple[Upstream, float]:
        """The same over a power of two, so that float16 holds the share of unlikely entries under a mean; and which."""
        largest = float(torch.stack((self.of_all, self.of_target)).abs().amax())
        factor = 2.0 ** math.ceil(math.log2(largest)) if 0 < largest < math.inf else 1.0
        return Upstream(self.targets, self.lse, self.of_all / factor, self.of_target / factor), factor


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels start on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def processors(device: torch.device) -> int:
    """How many programs run side by side."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def precision(dtype: torch.dtype) -> str:
    """Whole float32 products unless the user allowed less; half precision has but one way."""
    return "ieee" if dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest" else "tf32"


def by_descriptor(*matrices: Tensor) -> bool:
    """Whether the chip can read these by tensor descriptors: their rows start at multiples of 16 bytes."""
    device = matrices[0].device
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 9:
        return False
    return all(m.data_ptr() % 16 == 0 and m.stride(0) * m.element_size() % 16 == 0 for m in matrices)


def fitting(tile: Tile, *matrices: Tensor) -> Tile:
    """The tile, or one for matrices that have to be read by pointers."""
    return tile if by_descriptor(*matrices) else tile.by_pointers()


def operands(e: Tensor, c: Tensor, tile: Tile, out: Tensor | None = None) -> dict[str, Any]:
    """The two factors of a product of logits as the kernels take them, and where to write, and the tile's sizes."""
    outputs = {} if out is None else {"out": out, "out_stride": out.stride(0)}
    given = {"e": e, "c": c, "e_stride": e.stride(0), "c_stride": c.stride(0), **outputs}
    tma = by_descriptor(e, c) if out is None else by_descriptor(e, c, out)
    if tma and not tile.specialize:
        given["e"] = TensorDescriptor.from_tensor(e, [tile.rows, tile.width])
        given["c"] = TensorDescriptor.from_tensor(c, [tile.entries, tile.width])
        if out is not None:
            given["out"] = TensorDescriptor.from_tensor(out, [tile.rows, tile.entries // (1 + tile.halves)])
    sizes = {"ROWS": tile.rows, "ENTRIES": tile.entries, "WIDTH": tile.width, "GROUP": tile.group}
    ways = {"HALVES": tile.halves, "FLATTEN": tile.flatten, "SPECIALIZE": tile.specialize, "TMA": tma}
    compiler = {"num_warps": tile.warps, "num_stages": tile.stages}
    return {**given, **sizes, **ways, **compiler, "PRECISION": precision(e.dtype)}


def start(kernel: Any, programs: int, device: torch.device, **given: Any) -> None:
    """Runs a kernel; what tensor descriptors it makes by itself lie in memory of PyTorch's."""

    def launch() -> None:
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
        kernel[(programs,)](**given)

    with on(device):
        copy_context().run(launch)  # the allocator is set nowhere else


def slices(row_blocks: int, tiles: int, unit: int, programs: int, group: int) -> tuple[int, int]:
    """How many slices of the vocabulary, and how many tiles in each (a multiple of ``unit``), fill the chip best.

    At least so many that one group of row blocks keeps it busy: then what runs together reads the same few rows.
    """

    def cost(size: int) -> int:
        return -(-row_blocks * -(-tiles // size) // programs) * size

    least = min(-(-programs // min(group, row_blocks)), SLICES)
    shares = [-(-tiles // count) for count in range(least, SLICES + 1)]
    sizes = {-(-share // unit) * unit for share in shares}
    best = min(sorted(sizes, reverse=True), key=cost)
    return -(-tiles // best), best


def log_sums(e: Tensor, head: Head, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-sum-exp of each row's logits [N], and with ``keep`` those of each block of ``BLOCK`` entries [N, blocks]."""
    tile, n, v = fitting(tiles_for(e.device, e.dtype).log_sum, e, head.weight), len(e), len(head.weight)
    row_blocks = -(-n // tile.rows)
    unit, programs = BLOCK // tile.entries if keep else 1, processors(e.device) * tile.resident
    count, tiles_a_slice = slices(row_blocks, -(-v // tile.entries), unit, programs, tile.group)
    largest, total = e.new_empty((2, n, count), dtype=torch.float32)
    blocks = e.new_empty((n, -(-v // BLOCK)), dtype=torch.float16) if keep else None
    start(
        log_sum_kernel,
        row_blocks * count,
        e.device,
        largest=largest,
        total=total,
        blocks=total if blocks is None else blocks,
        n=n,
        v=v,
        d=e.shape[1],
        slices=count,
        tiles_a_slice=tiles_a_slice,
        blocks_a_row=0 if blocks is None else blocks.shape[1],
        KEEP=keep,
        BLOCK=BLOCK,
        **operands(e, head.weight, tile),
        **head.arguments(),
    )
    highest = largest.amax(1).clamp_(min=torch.finfo(torch.float32).min)  # -inf where all entries are masked
    lse = highest + largest.sub_(highest.unsqueeze(1)).exp_().mul_(total).sum(1).log_()
    return lse, blocks


def target_logits(e: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The logit of each row's target [N]; 0 where it is not among these entries."""
    out, rows = e.new_empty(len(e), dtype=torch.float32), 16
    with on(e.device):
        target_kernel[(-(-len(e) // rows),)](
            e=e,
            c=head.weight,
            targets=targets,
            out=out,
            n=len(e),
            v=len(head.weight),
            d=e.shape[1],
            e_stride=e.stride(0),
            c_stride=head.weight.stride(0),
            ROWS=rows,
            WIDTH=256,
            **head.arguments(),
        )
    return out


def signal(e: Tensor, head: Head, entry: int, upstream: Upstream, out: Tensor) -> None:
    """G into ``out`` [n, w], for these rows and these entries, of which the first is the vocabulary's ``entry``."""
    tile, (n, w) = fitting(tiles_for(e.device, e.dtype).signal, e, head.weight, out), out.shape
    tiles = -(-n // tile.rows) * -(-w // tile.entries)
    start(
        signal_kernel,
        min(tiles, processors(e.device) * tile.resident),
        e.device,
        n=n,
        v=w,
        d=e.shape[1],
        entry=entry,
        **operands(e, head.weight, tile, out),
        **upstream.arguments(),
        **head.arguments(),
    )


def add_product(into: Tensor, a: Tensor, b: Tensor, add: bool, factor: float) -> None:
    """into = factor * a @ b (+ into), summed in float32 and rounded to ``into`` once."""
    beta = int(add)
    if into.dtype == a.dtype:
        into.addmm_(a, b, beta=beta, alpha=factor)
    elif into.is_cuda:
        torch.addmm(into, a, b, out_dtype=into.dtype, beta=beta, alpha=factor, out=into)
    else:
        into.addmm_(a.to(into.dtype), b.to(into.dtype), beta=beta, alpha=factor)


class Memory:
    """The gradients and the extra buffer as the bytes in which a plan's rooms lie."""

    def __init__(self, hidden: Tensor | None, weight: Tensor | None, extra: int, device: torch.device) -> None:
        given = {"hidden": hidden, "weight": weight}
        self.bytes = {name: t.view(-1).view(torch.uint8) for name, t in given.items() if t is not None}
        self.bytes["extra"] = torch.empty(extra, dtype=torch.uint8, device=device)

    def matrix(self, room: Room, dtype: torch.dtype, rows: int, columns: int, stride: int) -> Tensor:
        """[rows, columns] at the beginning of a room."""
        return self.bytes[room.arena][room.start : room.stop].view(dtype)[: rows * stride].view(rows, -1)[:, :columns]


Needs = tuple[bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def exact_gradients(
    e: Tensor, head: Head, upstream: Upstream, needs: Needs, rounded: bool, gather: Callable[[Tensor], None] | None
) -> Gradients:
    """dE, dC and d bias, those that are needed; ``gather`` sums dE over processes before it is rounded."""
    n, d = e.shape
    scheme = plan(Shape(n, d, len(head.weight), e.element_size()), hidden=needs[0], weight=needs[1], rounded=rounded)
    for_hidden = torch.empty_like(e) if needs[0] else None
    for_weight = torch.empty_like(head.weight) if needs[1] else None
    bias_sums = e.new_zeros(len(head.weight), dtype=torch.float32) if needs[2] else None
    memory = Memory(for_hidden, for_weight, scheme.extra, e.device)
    factor = 1.0
    if e.dtype == torch.float16:
        upstream, factor = upstream.unit()
    for step in scheme.steps:
        rows, entries = slice(step.first_row, step.stop_row), slice(step.first, step.stop)
        g = memory.matrix(step.signal, e.dtype, step.rows, step.columns, step.stride)
        part = head.between(step.first, step.stop)
        signal(e[rows], part, step.first, upstream.rows(step.first_row, step.stop_row), g)
        if bias_sums is not None and (step.weight or not needs[1]):
            bias_sums[entries] += g.sum(0, dtype=torch.float32) * factor
        if for_weight is not None and step.weight:
            add_product(for_weight[entries], g.T, e[rows], step.add_weight, factor * head.scale)
        if for_hidden is not None and step.hidden:
            _add_hidden(step, for_hidden[rows], memory, g, part, factor, gather)
    for_bias = bias_sums if bias_sums is None or head.bias is None else bias_sums.to(head.bias.dtype)
    return for_hidden, for_weight, for_bias


def _add_hidden(
    step: Step,
    result: Tensor,
    memory: Memory,
    g: Tensor,
    part: Head,
    factor: float,
    gather: Callable[[Tensor], None] | None,
) -> None:
    """One chunk's share of dE, and at the last chunk its rounding."""
    width = result.shape[1]
    sums = result if step.sums is None else memory.matrix(step.sums, torch.float32, step.rows, width, width)
    add_product(sums, g, part.weight, step.add_hidden, factor * part.scale)
    if step.last and gather is not None:
        gather(sums)
    if step.last and sums is not result:
        result.copy_(sums)
