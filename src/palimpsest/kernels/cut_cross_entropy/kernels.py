"""The Triton kernels: log-sum-exp of logits that are never stored, target logits, and chunks of their gradient.

All products are summed in float32 and no kernel waits for, or adds to what is written by, another program: results do
not depend on the order in which programs run.  A logit is  z = softcap * tanh((scale * e . c + bias) / softcap);  it
leaves the registers only as its share of a sum or as its gradient, so it is never rounded.

Matrices are read by tensor descriptors (TMA) where ``TMA`` is set and by pointers elsewhere.  The two kernels of the
exact way can divide their warps into those that load and those that compute (``SPECIALIZE``): Triton 3.6 does so for
these loops on Hopper.  No tile asks for it by default: no card has shown yet that it gains something.
``bench/compiled_kernels.py`` prints what every compilation uses.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "kept_hidden_kernel",
    "kept_signal_kernel",
    "kept_weight_kernel",
    "log_sum_kernel",
    "signal_kernel",
    "target_kernel",
]

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _products(
    e, c, row, col, n, v, d, e_stride, c_stride,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr,
    TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """e[row:, :] @ c[col:, :].T, [ROWS, ENTRIES] in float32."""
    total = tl.zeros((ROWS, ENTRIES), dtype=tl.float32)
    if TMA:
        for k in range(0, d, WIDTH):
            total = tl.dot(e.load([row, k]), c.load([col, k]).T, total, input_precision=PRECISION)
    else:
        rows, cols, depth = row + tl.arange(0, ROWS), col + tl.arange(0, ENTRIES), tl.arange(0, WIDTH)
        e_at = e + rows.to(tl.int64)[:, None] * e_stride + depth[None, :]
        c_at = c + cols.to(tl.int64)[None, :] * c_stride + depth[:, None]
        for k in range(0, d, WIDTH):
            inside = depth < d - k
            a = tl.load(e_at + k, mask=(rows < n)[:, None] & inside[None, :], other=0.0)
            b = tl.load(c_at + k, mask=(cols < v)[None, :] & inside[:, None], other=0.0)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def _logits(total, bias, cols, v, scale, softcap, BIAS: tl.constexpr, CAP: tl.constexpr):
    """Scale, bias and cap; behind the last entry stands anything."""
    z = total * scale
    if BIAS:
        z += tl.load(bias + cols, mask=cols < v, other=0.0).to(tl.float32)[None, :]
    if CAP:
        z = _capped(z, softcap)
    return z


@triton.jit
def _halves(z, ROWS: tl.constexpr, ENTRIES: tl.constexpr):
    """The first and the last half of the entries, where they lie: what is made of one half needs half the registers."""
    return tl.split(tl.permute(tl.reshape(z, (ROWS, 2, ENTRIES // 2)), (0, 2, 1)))


@triton.jit
def _capped(z, softcap):
    """softcap * tanh(z / softcap): right too where the exponential is 0 or inf, and z is needed only once."""
    return softcap - 2.0 * softcap / (1.0 + tl.exp2(z * (2.0 * LOG2_E / softcap)))


@triton.jit(do_not_specialize=["n", "v", "slices", "tiles_a_slice", "blocks_a_row"])
def log_sum_kernel(
    e, c, bias, largest, total, blocks, n, v, d, e_stride, c_stride, slices, tiles_a_slice, blocks_a_row,
    scale, softcap,
    BIAS: tl.constexpr, CAP: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, HALVES: tl.constexpr,
    FLATTEN: tl.constexpr, SPECIALIZE: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of rows over one slice of the vocabulary: its largest logit and the sum of exponentials beside it.

    They go to ``largest`` and ``total`` [n, slices].  With ``KEEP`` the log-sum-exp of every ``BLOCK`` entries goes to
    ``blocks`` [n, blocks_a_row]; a slice is then a whole number of blocks.
    """
    row_blocks = tl.cdiv(n, ROWS)
    together = GROUP * slices
    first_block = tl.program_id(0) // together * GROUP
    size = tl.minimum(row_blocks - first_block, GROUP)
    inside = tl.program_id(0) % together
    row, part = (first_block + inside % size) * ROWS, inside // size
    rows = row + tl.arange(0, ROWS)
    if SPECIALIZE:
        e = tl.make_tensor_descriptor(e, [n, d], [e_stride, 1], [ROWS, WIDTH])
        c = tl.make_tensor_descriptor(c, [v, d], [c_stride, 1], [ENTRIES, WIDTH])
    m = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    s = tl.zeros((ROWS,), dtype=tl.float32)
    block_m, block_s = m, s
    stop = tl.minimum((part + 1) * tiles_a_slice, tl.cdiv(v, ENTRIES))
    for tile in tl.range(part * tiles_a_slice, stop, flatten=FLATTEN, warp_specialize=SPECIALIZE):
        col = tile * ENTRIES
        z = _products(e, c, row, col, n, v, d, e_stride, c_stride, ROWS, ENTRIES, WIDTH, TMA, PRECISION)
        if HALVES:
            first, last = _halves(z, ROWS, ENTRIES)
            block_m, block_s = _added(block_m, block_s, first, bias, col, v, scale, softcap, ENTRIES // 2, BIAS, CAP)
            col += ENTRIES // 2
            block_m, block_s = _added(block_m, block_s, last, bias, col, v, scale, softcap, ENTRIES // 2, BIAS, CAP)
        else:
            block_m, block_s = _added(block_m, block_s, z, bias, col, v, scale, softcap, ENTRIES, BIAS, CAP)
        if KEEP:  # without a branch: what the compiler divides among warps may have none
            whole = ((tile + 1) % (BLOCK // ENTRIES) == 0) | (tile + 1 == stop)
            at = blocks + rows.to(tl.int64) * blocks_a_row + tile // (BLOCK // ENTRIES)
            tl.store(at, (block_m + tl.log2(block_s) / LOG2_E).to(tl.float16), mask=(rows < n) & whole)
            m, s = _joined(m, s, tl.where(whole, block_m, float("-inf")), tl.where(whole, block_s, 0.0))
            block_m, block_s = tl.where(whole, float("-inf"), block_m), tl.where(whole, 0.0, block_s)
    if not KEEP:
        m, s = block_m, block_s
    at = rows.to(tl.int64) * slices + part
    tl.store(largest + at, m, mask=rows < n)
    tl.store(total + at, s, mask=rows < n)


@triton.jit
def _added(
    m, s, total, bias, col, v, scale, softcap, ENTRIES: tl.constexpr, BIAS: tl.constexpr, CAP: tl.constexpr
):  # fmt: skip
    """The running largest logit and sum of exponentials with the products ``total`` [ROWS, ENTRIES] added."""
    cols = col + tl.arange(0, ENTRIES)
    z = _logits(total, bias, cols, v, scale, softcap, BIAS, CAP)
    z = tl.where((cols < v)[None, :], z, float("-inf"))
    higher = tl.maximum(m, tl.max(z, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher) * LOG2_E  # a row whose entries are all masked so far
    s = s * tl.exp2(m * LOG2_E - base) + tl.sum(tl.exp2(z * LOG2_E - base[:, None]), 1)
    return higher, s


@triton.jit
def _joined(m, s, other_m, other_s):
    """Two running sums as one."""
    higher = tl.maximum(m, other_m)
    base = tl.where(higher == float("-inf"), 0.0, higher) * LOG2_E
    return higher, s * tl.exp2(m * LOG2_E - base) + other_s * tl.exp2(other_m * LOG2_E - base)


@triton.jit(do_not_specialize=["n", "v"])
def target_kernel(
    e, c, bias, targets, out, n, v, d, e_stride, c_stride, scale, softcap,
    BIAS: tl.constexpr, CAP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out_i = the logit of row i's target; 0 where it is not among these entries."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    target = tl.load(targets + rows, mask=rows < n, other=-1)
    here = (target >= 0) & (target < v)
    target = tl.where(here, target, 0).to(tl.int64)
    depth = tl.arange(0, WIDTH)
    sums = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for k in range(0, d, WIDTH):
        mask = here[:, None] & (depth < d - k)[None, :]
        a = tl.load(e + rows.to(tl.int64)[:, None] * e_stride + k + depth[None, :], mask=mask, other=0.0)
        b = tl.load(c + target[:, None] * c_stride + k + depth[None, :], mask=mask, other=0.0)
        sums += a.to(tl.float32) * b.to(tl.float32)
    z = tl.sum(sums, 1) * scale
    if BIAS:  # once a row, whatever its width
        z += tl.load(bias + target, mask=here, other=0.0).to(tl.float32)
    if CAP:
        z = _capped(z, softcap)
    tl.store(out + rows, tl.where(here, z, 0.0), mask=rows < n)


@triton.jit
def _of_rows(targets, lse, of_all, of_target, rows, entry, there):
    """Target, counted from ``entry`` on, log-sum-exp and upstream gradients of some tokens."""
    return (
        (tl.load(targets + rows, mask=there, other=-1) - entry).to(tl.int32),
        tl.load(lse + rows, mask=there, other=float("inf")),
        tl.load(of_all + rows, mask=there, other=0.0),
        tl.load(of_target + rows, mask=there, other=0.0),
    )


@triton.jit
def _write_gradient(
    total, of_rows, bias, out, row, col, n, v, out_stride, scale, softcap,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, BIAS: tl.constexpr, CAP: tl.constexpr, TMA: tl.constexpr,
    PAD: tl.constexpr = False,
):  # fmt: skip
    """d loss / d (scale * e . c + bias): softmax * of_all, less of_target where the target is; from the products.

    With ``PAD``, zeros behind the last entry up to a multiple of 16.
    """
    target, lse, of_all, of_target = of_rows
    rows, cols = row + tl.arange(0, ROWS), col + tl.arange(0, ENTRIES)
    z = _logits(total, bias, cols, v, scale, softcap, BIAS, CAP)
    g = tl.exp2((z - lse[:, None]) * LOG2_E) * of_all[:, None]
    g = tl.where(cols[None, :] == target[:, None], g - of_target[:, None], g)
    if CAP:
        share = z * (1.0 / softcap)
        g *= 1.0 - share * share
    if TMA:  # which leaves out what is behind the last entry
        out.store([row, col], g.to(out.dtype))
    else:
        stop = v
        if PAD:
            stop, g = tl.cdiv(v, 16) * 16, tl.where((cols < v)[None, :], g, 0.0)
        at = out + rows.to(tl.int64)[:, None] * out_stride + cols[None, :]
        tl.store(at, g.to(out.dtype.element_ty), mask=(rows < n)[:, None] & (cols < stop)[None, :])


@triton.jit
def _write_by_halves(
    total, of_rows, bias, out, row, col, n, v, out_stride, scale, softcap,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, BIAS: tl.constexpr, CAP: tl.constexpr, TMA: tl.constexpr,
    PAD: tl.constexpr = False,
):  # fmt: skip
    """The same, one half of the entries after the other."""
    first, last = _halves(total, ROWS, ENTRIES)
    _write_gradient(
        first, of_rows, bias, out, row, col, n, v, out_stride, scale, softcap, ROWS, ENTRIES // 2, BIAS, CAP, TMA, PAD
    )  # fmt: skip
    col += ENTRIES // 2
    _write_gradient(
        last, of_rows, bias, out, row, col, n, v, out_stride, scale, softcap, ROWS, ENTRIES // 2, BIAS, CAP, TMA, PAD
    )  # fmt: skip


@triton.jit(do_not_specialize=["n", "v", "entry"])
def signal_kernel(
    e, c, bias, targets, lse, of_all, of_target, out, n, v, d, e_stride, c_stride, out_stride, entry, scale, softcap,
    BIAS: tl.constexpr, CAP: tl.constexpr,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, HALVES: tl.constexpr,
    FLATTEN: tl.constexpr, SPECIALIZE: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """G for n rows and the v entries from ``entry`` on, of which ``c`` and ``bias`` hold just these.

    A program stays on its processor and takes one tile after the other.
    """
    SHARE: tl.constexpr = ENTRIES // 2 if HALVES else ENTRIES
    if SPECIALIZE:
        e = tl.make_tensor_descriptor(e, [n, d], [e_stride, 1], [ROWS, WIDTH])
        c = tl.make_tensor_descriptor(c, [v, d], [c_stride, 1], [ENTRIES, WIDTH])
        out = tl.make_tensor_descriptor(out, [n, v], [out_stride, 1], [ROWS, SHARE])
    row_blocks, col_blocks = tl.cdiv(n, ROWS), tl.cdiv(v, ENTRIES)
    tiles = row_blocks * col_blocks
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN, warp_specialize=SPECIALIZE):
        first_block = tile // (GROUP * col_blocks) * GROUP
        size = tl.minimum(row_blocks - first_block, GROUP)
        inside = tile % (GROUP * col_blocks)
        row, col = (first_block + inside % size) * ROWS, inside // size * ENTRIES
        z = _products(e, c, row, col, n, v, d, e_stride, c_stride, ROWS, ENTRIES, WIDTH, TMA, PRECISION)
        rows = row + tl.arange(0, ROWS)
        of_rows = _of_rows(targets, lse, of_all, of_target, rows, entry, rows < n)
        if HALVES:
            _write_by_halves(
                z, of_rows, bias, out, row, col, n, v, out_stride, scale, softcap, ROWS, ENTRIES, BIAS, CAP, TMA
            )  # fmt: skip
        else:
            _write_gradient(
                z, of_rows, bias, out, row, col, n, v, out_stride, scale, softcap, ROWS, ENTRIES, BIAS, CAP, TMA
            )  # fmt: skip


@triton.jit
def _piece(table):
    """Where a piece's pairs start, how many, its entries' bounds, where its G begins, and how long a row of that is.

    Multiples of 16 where the compiler is told so: what it does not know to be aligned, it moves number by number.
    """
    start, count, first = tl.load(table), tl.load(table + 1).to(tl.int32), tl.load(table + 2).to(tl.int32)
    stop, at = tl.load(table + 3).to(tl.int32), tl.multiple_of(tl.load(table + 4), 16)
    first = tl.multiple_of(first, 16)
    return start, count, first, stop, at, tl.cdiv(stop - first, 16) * 16


@triton.jit
def kept_signal_kernel(
    e, c, bias, pairs, table, targets, lse, of_all, of_target, out, d, e_stride, c_stride, scale, softcap,
    BIAS: tl.constexpr, CAP: tl.constexpr,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr, HALVES: tl.constexpr,
    TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """G of some entries for the tokens that keep them; a program of the grid's first dimension takes one tile."""
    start, count, first, stop, at, stride = _piece(table + tl.program_id(1) * 5)
    row_tiles = tl.cdiv(count, ROWS)
    if tl.program_id(0) >= row_tiles * tl.cdiv(stop - first, ENTRIES):
        return
    row, col = tl.program_id(0) % row_tiles * ROWS, first + tl.program_id(0) // row_tiles * ENTRIES
    local, cols, depth = row + tl.arange(0, ROWS), col + tl.arange(0, ENTRIES), tl.arange(0, WIDTH)
    there = local < count
    rows = tl.load(pairs + start + local, mask=there, other=0)
    e_at = e + rows.to(tl.int64)[:, None] * e_stride + depth[None, :]
    total = tl.zeros((ROWS, ENTRIES), dtype=tl.float32)
    if TMA:  # the tokens are not neighbours and the entries are
        for k in range(0, d, WIDTH):
            a = tl.load(e_at + k, mask=there[:, None] & (depth < d - k)[None, :], other=0.0)
            total = tl.dot(a, c.load([col, k]).T, total, input_precision=PRECISION)
    else:
        c_at = c + cols.to(tl.int64)[None, :] * c_stride + depth[:, None]
        for k in range(0, d, WIDTH):
            inside = depth < d - k
            a = tl.load(e_at + k, mask=there[:, None] & inside[None, :], other=0.0)
            b = tl.load(c_at + k, mask=(cols < stop)[None, :] & inside[:, None], other=0.0)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    of_rows = _of_rows(targets, lse, of_all, of_target, rows, 0, there)
    to = out + (at - first)
    if HALVES:
        left, right = _halves(total, ROWS, ENTRIES)  # and these by halves: gathered rows need registers too
        _write_by_halves(
            left, of_rows, bias, to, row, col, count, stop, stride, scale, softcap,
            ROWS, ENTRIES // 2, BIAS, CAP, False, True,
        )  # fmt: skip
        _write_by_halves(
            right, of_rows, bias, to, row, col + ENTRIES // 2, count, stop, stride, scale, softcap,
            ROWS, ENTRIES // 2, BIAS, CAP, False, True,
        )  # fmt: skip
    else:
        _write_gradient(
            total, of_rows, bias, to, row, col, count, stop, stride, scale, softcap,
            ROWS, ENTRIES, BIAS, CAP, False, True,
        )  # fmt: skip


@triton.jit(do_not_specialize=["columns"])
def kept_weight_kernel(
    e, c, pairs, table, g, into, bias_sums, d, e_stride, c_stride, into_stride, factor, bias_factor, columns,
    BIAS: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[ENTRIES, WIDTH] of dC, summed over the tokens that keep these entries, and of d bias in the first column."""
    start, count, first, stop, at, stride = _piece(table + tl.program_id(1) * 5)
    cols = tl.program_id(0) % columns * ENTRIES + tl.arange(0, ENTRIES)  # in the piece
    wide = tl.program_id(0) // columns * WIDTH + tl.arange(0, WIDTH)
    here = cols < stop - first
    total = tl.zeros((ENTRIES, WIDTH), dtype=tl.float32)
    of_bias = tl.zeros((ENTRIES,), dtype=tl.float32)
    for row in range(0, count, ROWS):
        local = row + tl.arange(0, ROWS)
        there = local < count
        rows = tl.load(pairs + start + local, mask=there, other=0)
        g_at = g + at + local.to(tl.int64)[:, None] * stride + cols[None, :]
        signal = tl.load(g_at, mask=there[:, None] & (cols < stride)[None, :], other=0.0)
        states = tl.load(
            e + rows.to(tl.int64)[:, None] * e_stride + wide[None, :],
            mask=there[:, None] & (wide < d)[None, :],
            other=0.0,
        )
        total = tl.dot(tl.trans(signal), states, total, input_precision=PRECISION)
        if BIAS:
            of_bias += tl.sum(signal.to(tl.float32), 0)
    to = into + (first + cols).to(tl.int64)[:, None] * into_stride + wide[None, :]
    tl.store(to, (total * factor).to(into.dtype.element_ty), mask=here[:, None] & (wide < d)[None, :])
    if BIAS:
        tl.store(bias_sums + first + cols, of_bias * bias_factor, mask=here & (tl.program_id(0) // columns == 0))


@triton.jit
def kept_hidden_kernel(
    e, c, pairs, table, g, sums, d, e_stride, c_stride, factor,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds a piece's share of dE to ``sums`` [N, d], for the tokens that keep it; no two programs write the same."""
    start, count, first, stop, at, stride = _piece(table)
    local = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    wide = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = local < count
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for col in range(0, stop - first, ENTRIES):
        cols = col + tl.arange(0, ENTRIES)
        here = cols < stop - first
        g_at = g + at + local.to(tl.int64)[:, None] * stride + cols[None, :]
        signal = tl.load(g_at, mask=there[:, None] & (cols < stride)[None, :], other=0.0)
        c_at = c + (first + cols).to(tl.int64)[:, None] * c_stride + wide[None, :]
        weight = tl.load(c_at, mask=here[:, None] & (wide < d)[None, :], other=0.0)
        total = tl.dot(signal, weight, total, input_precision=PRECISION)
    rows = tl.load(pairs + start + local, mask=there, other=0)
    to = sums + rows.to(tl.int64)[:, None] * d + wide[None, :]
    mask = there[:, None] & (wide < d)[None, :]
    tl.store(to, tl.load(to, mask=mask, other=0.0) + total * factor, mask=mask)
