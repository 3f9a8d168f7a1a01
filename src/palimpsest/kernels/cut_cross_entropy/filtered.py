"""The backward that leaves out what has next to no probability: a token visits only some blocks of the vocabulary.

The forward has kept the log-sum-exp of every token and block of 1,024 entries.  Once a token's total is known, the
probability of each of its blocks is known too, without computing a logit again.  Of the blocks with the least, as many
are dropped as have at most ``filter_eps`` of the token's probability together; the target's block always stays.

What is left is what a mixture of experts does: a block is an expert, and the tokens that keep it are routed to it.  G,
dC and dE are made by grouped products over the tokens of each block, read where they lie.  A token's choice is its own;
choosing for tiles of 128 tokens at once keeps whatever one of them needs.

With d_i the share that token i drops, the error of dE_i is d_i times a weighted mean of the dropped rows of C: at most
d_i max |C| times the upstream gradient.  Scaling what is left to a sum of one would keep the gradients of the logits
summing to zero over the vocabulary, but it moves the likely entries, which weigh most: the error of dC grows fivefold.

Where hardly anything can be dropped, and in float32, the exact backward is taken.  One program writes each number, and
the blocks are added to dE one after the other: the result does not depend on the order in which programs run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from palimpsest.kernels._shards import Shards
from palimpsest.kernels.cut_cross_entropy import driver
from palimpsest.kernels.cut_cross_entropy.driver import Gradients, Head, Needs, Upstream, on, precision
from palimpsest.kernels.cut_cross_entropy.kernels import kept_hidden_kernel, kept_signal_kernel, kept_weight_kernel
from palimpsest.kernels.cut_cross_entropy.plan import ALIGN, EXTRA, STRIDE
from palimpsest.kernels.cut_cross_entropy.tiles import tiles_for

__all__ = ["Choice", "Piece", "choose", "diagnose", "filtered_gradients", "groups"]

MOST = 0.8  # of all blocks: where more are kept, whole products are faster
ELEMENTS = 2**18  # blocks looked at together
COLUMNS = 64  # a block is split into multiples of as many


@dataclass(frozen=True)
class Choice:
    """``kept`` [N, blocks] says which blocks a token visits, ``dropped`` [N] what share of its probability it loses."""

    kept: Tensor
    dropped: Tensor

    @property
    def share(self) -> float:
        """Kept blocks of all: the three products of the backward cost this much of whole ones."""
        return float(self.kept.float().mean())


def choose(
    blocks: Tensor, lse: Tensor, targets: Tensor, entries: int, filter_eps: float, shards: Shards | None
) -> Choice:
    """The smallest probabilities of each token are dropped while they sum to at most ``filter_eps``.

    ``blocks`` [N, blocks] are log-sum-exps, ``lse`` [N] that of all; a target outside [0, entries) has no block here.
    Processes that share a head may drop equal shares.
    """
    block = driver.BLOCK
    kept, dropped = torch.empty_like(blocks, dtype=torch.bool), torch.empty_like(lse)
    here = (targets >= 0) & (targets < entries)
    most = filter_eps if shards is None else filter_eps / shards.count
    rows = max(1, ELEMENTS // blocks.shape[1])
    for first in range(0, len(blocks), rows):
        some = slice(first, first + rows)
        mass = (blocks[some].float() - lse[some].unsqueeze(1)).exp()  # [n, blocks]
        of_target = (targets[some] // block).clamp(0, blocks.shape[1] - 1).unsqueeze(1)
        own = mass.gather(1, of_target)
        ordered, place = mass.scatter(1, of_target, torch.where(here[some].unsqueeze(1), 2.0, own)).sort(1)
        kept[some] = torch.ones_like(kept[some]).scatter_(1, place, ordered.cumsum(1) > most)
        dropped[some] = mass.masked_fill_(kept[some], 0.0).sum(1)
    if shards is not None:
        shards.add(dropped)
    return Choice(kept, dropped)


def diagnose(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    filter_eps: float,
    softcap: float | None = None,
    scale: float = 1.0,
) -> Choice:
    """What the filter would do with these tokens [N, D]: how many blocks stay, and what each token loses."""
    head = Head(c.detach().contiguous(), None if bias is None else bias.detach().contiguous(), softcap, scale)
    lse, blocks = driver.log_sums(e.detach().contiguous(), head, keep=True)
    assert blocks is not None
    return choose(blocks, lse, targets, len(c), filter_eps, None)


@dataclass(frozen=True)
class Piece:
    """Entries [first, stop) of one block with the ``rows`` tokens that keep it.

    They stand in the list of all pairs of tokens and blocks from ``start`` on; their G begins at number ``at`` of its
    room, a row ``stop - first``, up to a multiple of ``STRIDE``, after the other.
    """

    first: int
    stop: int
    start: int
    rows: int
    at: int

    @property
    def size(self) -> int:
        """Numbers in its G."""
        return self.rows * _up(self.stop - self.first, STRIDE)


def groups(
    counts: list[int], entries: int, first: int, stop: int, room: Callable[[int], int]
) -> Iterator[tuple[Piece, ...]]:
    """The entries [first, stop) in order, cut into groups whose G has room: ``room(end)`` numbers if it ends there.

    Whole blocks where possible; a block too large for an empty group is split into ranges of its entries.
    """
    block, start = driver.BLOCK, sum(counts[: first // driver.BLOCK])
    group: list[Piece] = []
    used = 0
    for number in range(first // block, -(-stop // block)):
        low, high, rows = max(first, number * block), min(stop, (number + 1) * block, entries), counts[number]
        while low < high:
            end = high
            if used + rows * _up(end - low, STRIDE) > room(end):
                if group:
                    yield tuple(group)
                    group, used = [], 0
                    continue
                end = min(high, low + max(COLUMNS, room(high) // max(rows, 1) // COLUMNS * COLUMNS))
            group.append(Piece(low, end, start, rows, used))
            used += _up(group[-1].size, ALIGN)
            low = end
        start += rows
    if group:
        yield tuple(group)


class Filtered:
    """The three kinds of grouped products for one head and one choice."""

    def __init__(self, e: Tensor, head: Head, upstream: Upstream, pairs: Tensor, factor: float) -> None:
        self.e, self.head, self.upstream, self.pairs, self.factor = e, head, upstream, pairs, factor
        self.tiles = tiles_for(e.device, e.dtype)

    def _launch(self, group: tuple[Piece, ...]) -> Tensor:
        """What the programs of a group look up: a row for each piece."""
        rows = [[p.start, p.rows, p.first, p.stop, p.at] for p in group]
        return torch.tensor(rows, dtype=torch.int64).to(self.e.device, non_blocking=True)

    def _common(self) -> dict[str, object]:
        e, c = self.e, self.head.weight
        given = {"e": e, "c": c, "pairs": self.pairs, "d": e.shape[1], "e_stride": e.stride(0), "c_stride": c.stride(0)}
        return {**given, "PRECISION": precision(e.dtype)}

    def signal(self, group: tuple[Piece, ...], out: Tensor) -> Tensor:
        """G of a group into ``out``; returns the group's table."""
        weight, table, given = self.head.weight, self._launch(group), self._common()
        tile, tma = driver.fitting(self.tiles.kept_signal, weight), driver.by_descriptor(weight)
        if tma:
            given["c"] = TensorDescriptor.from_tensor(weight, [tile.entries, tile.width])
        tiles = max(-(-p.rows // tile.rows) * -(-(p.stop - p.first) // tile.entries) for p in group)
        if tiles:
            with on(self.e.device):
                kept_signal_kernel[(tiles, len(group))](
                    table=table,
                    out=out,
                    **self.upstream.arguments(),
                    **self.head.arguments(),
                    **given,
                    ROWS=tile.rows,
                    ENTRIES=tile.entries,
                    WIDTH=tile.width,
                    HALVES=tile.halves,
                    TMA=tma,
                    num_warps=tile.warps,
                    num_stages=tile.stages,
                )
        return table

    def weight(
        self, group: tuple[Piece, ...], table: Tensor, g: Tensor, into: Tensor, bias_sums: Tensor | None
    ) -> None:
        """Rows of dC, all of them: zero where no token keeps the block."""
        tile = self.tiles.kept_weight
        columns = max(-(-(p.stop - p.first) // tile.entries) for p in group)
        with on(self.e.device):
            kept_weight_kernel[(columns * -(-self.e.shape[1] // tile.width), len(group))](
                table=table,
                g=g,
                into=into,
                bias_sums=into if bias_sums is None else bias_sums,
                into_stride=into.stride(0),
                factor=self.factor * self.head.scale,
                bias_factor=self.factor,
                columns=columns,
                **self._common(),
                BIAS=bias_sums is not None,
                ROWS=tile.rows,
                ENTRIES=tile.entries,
                WIDTH=tile.width,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )

    def hidden(self, group: tuple[Piece, ...], table: Tensor, g: Tensor, sums: Tensor) -> None:
        """One block after the other, since a token may be in several."""
        tile = self.tiles.kept_hidden
        for number, piece in enumerate(group):
            if piece.rows:
                with on(self.e.device):
                    kept_hidden_kernel[(-(-piece.rows // tile.rows), -(-self.e.shape[1] // tile.width))](
                        table=table[number],
                        g=g,
                        sums=sums,
                        factor=self.factor * self.head.scale,
                        **self._common(),
                        ROWS=tile.rows,
                        ENTRIES=tile.entries,
                        WIDTH=tile.width,
                        num_warps=tile.warps,
                        num_stages=tile.stages,
                    )


def filtered_gradients(
    e: Tensor,
    head: Head,
    upstream: Upstream,
    needs: Needs,
    blocks: Tensor,
    filter_eps: float,
    shards: Shards | None,
) -> Gradients | None:
    """dE, dC and d bias from the blocks that are kept; None where the exact backward should be taken."""
    if e.element_size() != 2 or not (needs[0] or needs[1]):
        return None
    choice = choose(blocks, upstream.lse, upstream.targets, len(head.weight), filter_eps, shards)
    choice.kept.masked_fill_(((upstream.of_all == 0) & (upstream.of_target == 0)).unsqueeze(1), False)
    counts = choice.kept.sum(0).tolist()
    alone = sum(counts) > MOST * choice.kept.numel()
    if shards is not None:  # the processes go one way together
        votes = torch.tensor([float(alone)], device=e.device)
        shards.add(votes)
        alone = bool(votes > 0)
    if alone:
        return None
    pairs = (choice.kept.T.reshape(-1).nonzero().view(-1) % len(e)).to(torch.int32)
    upstream, factor = upstream.unit() if e.dtype == torch.float16 else (upstream, 1.0)
    work = Filtered(e, head, upstream, pairs, factor)
    return _gradients(work, counts, needs, None if shards is None else shards.add)


def _gradients(work: Filtered, counts: list[int], needs: Needs, gather: Callable[[Tensor], None] | None) -> Gradients:
    """As the exact plan does: dE's sums in the last rows of dC, G in dE; then these rows, with G in what is left."""
    e, weight, entries = work.e, work.head.weight, len(work.head.weight)
    width, block = e.shape[1], driver.BLOCK
    for_hidden = torch.empty_like(e) if needs[0] else None
    for_weight = torch.empty_like(weight) if needs[1] else None
    bias_sums = e.new_zeros(entries, dtype=torch.float32) if needs[2] else None
    front = 0
    if for_hidden is not None:
        tail = 2 * len(e) + 1 + ALIGN // (2 * width)  # rows of dC that hold the sums
        front = max(0, entries - tail) // block * block if for_weight is not None else entries
        inside = for_weight is not None and tail <= entries
        sums = _sums(for_weight, e) if inside and for_weight is not None else e.new_empty(e.shape, dtype=torch.float32)
        _first_pass(work, counts, front, for_hidden.view(-1), sums.zero_(), for_weight, bias_sums)
        if gather is not None:
            gather(sums)
        for_hidden.copy_(sums)
    if for_weight is not None:
        flat, beside = for_weight.view(-1), e.new_empty(max(EXTRA // 2, COLUMNS * max(counts)))

        def room_behind(stop: int) -> int:
            return max(len(beside), (entries - stop) * width - ALIGN)

        for group in groups(counts, entries, front, entries, room_behind):
            needed, stop = max(p.at + p.size for p in group), group[-1].stop
            room = beside if needed <= len(beside) else flat[_up(stop * width, ALIGN) :]
            table = work.signal(group, room)
            work.weight(group, table, room, for_weight, bias_sums)
    bias = work.head.bias
    return for_hidden, for_weight, bias_sums if bias_sums is None or bias is None else bias_sums.to(bias.dtype)


def _first_pass(
    work: Filtered,
    counts: list[int],
    front: int,
    room: Tensor,
    sums: Tensor,
    for_weight: Tensor | None,
    bias_sums: Tensor | None,
) -> None:
    """dE over all entries, and dC over those before ``front``."""
    entries = len(work.head.weight)
    if len(room) < COLUMNS * max(counts):  # a narrow head
        room = room.new_empty(COLUMNS * max(counts))
    for low, high in ((0, front), (front, entries)):
        for group in groups(counts, entries, low, high, lambda _: len(room)):
            table = work.signal(group, room)
            if for_weight is not None and high == front:
                work.weight(group, table, room, for_weight, bias_sums)
            work.hidden(group, table, room, sums)


def _sums(for_weight: Tensor, e: Tensor) -> Tensor:
    """Float32 numbers for dE in the last rows of dC."""
    whole = for_weight.view(-1).view(torch.uint8)
    start = (len(whole) - e.numel() * 4) // ALIGN * ALIGN
    return whole[start : start + e.numel() * 4].view(torch.float32).view(e.shape)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
