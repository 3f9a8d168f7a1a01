"""Where the backward's intermediate arrays lie: inside the gradients, before those are written.

With G = d loss / d logits the gradients are dE = G C and dC = G^T E.  G [N, V] is too large to keep, so a chunk of its
columns is made at a time; and what becomes dE is summed in float32 from the first chunk to the last.  Neither needs
memory of its own.  dC [V, D] is the largest array of all and its last rows are written last: until then they hold the
sums of dE; and dE, which is written once the sums are complete, holds the chunk of G:

    dC  [ rows written at once, with both gradients ...  | tail: the sums of dE in float32 ]
    dE  [ a chunk of G                                                                     ]

Over the tail's entries the first pass makes only dE.  Then the sums are rounded into dE, and the tail's rows of dC are
made from a G that is computed once more, in what is left of the tail, the last rows with a buffer of ``EXTRA`` bytes.
In half precision the tail has 2 N of the V entries, so the backward costs 3 + 2 N / V matrix products instead of 3
(3.06 for 8192 tokens and 256000 entries), and next to nothing is allocated.

Where V is small against N, the tail is most of dC.  Then the tokens may be taken in parts, one after the other: the
sums need room for one part only, but each part adds to rows of dC that the one before has written, which rounds them
once more.  A plan does so only where it may (``rounded``).

``plan`` takes, of all arrangements, the one that is predicted to be fastest from its operations, the bytes it moves and
how well its products fill the machine.  Pure Python: it knows shapes, no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal

__all__ = ["EXTRA", "Machine", "Plan", "Room", "Shape", "Step", "plan"]

EXTRA = 4 * 2**20  # bytes that may be allocated beside the gradients
ALIGN = 256  # bytes: what a matrix product wants of its operands' first element
STRIDE = 16  # numbers: a row of G begins where a tensor descriptor and a matrix product can load it
CHUNKS = (1024, 2048, 4096, 8192)  # columns of G at a time
PARTS = (1, 2, 4)  # of the tokens
PART_ROWS = 128  # a part of the tokens is a multiple of as many
FEWEST = 16  # columns of G that there is room for, however many tokens there are
NARROW = 256  # fewer columns of G than this are worth no memory
COARSE = 1024  # shapes whose numbers of tokens round up to the same multiple are arranged alike
Arena = Literal["hidden", "weight", "extra"]


@dataclass(frozen=True)
class Shape:
    """N tokens, D wide, V entries, of ``item`` bytes a number."""

    tokens: int
    width: int
    entries: int
    item: int


@dataclass(frozen=True)
class Room:
    """Bytes [start, start + size) of dE (``hidden``), of dC (``weight``), or of the extra buffer."""

    arena: Arena
    start: int
    size: int

    @property
    def stop(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Step:
    """G for tokens [first_row, stop_row) and entries [first, stop), and the products that it goes into.

    ``signal`` holds G, each row ``stride`` numbers behind the one before.  ``sums`` holds the float32 sums of dE;
    without it dE itself does.  ``add_hidden`` and ``add_weight`` say whether there is something to add to, ``last``
    that dE of these rows is complete.
    """

    first_row: int
    stop_row: int
    first: int
    stop: int
    signal: Room
    stride: int
    hidden: bool
    weight: bool
    sums: Room | None = None
    add_hidden: bool = False
    add_weight: bool = False
    last: bool = False

    @property
    def rows(self) -> int:
        """Number of tokens."""
        return self.stop_row - self.first_row

    @property
    def columns(self) -> int:
        """Number of entries."""
        return self.stop - self.first


@dataclass(frozen=True)
class Machine:
    """What predictions are made with; the defaults are one H100 and bf16, as large matrix products reach it."""

    flops: float = 800e12  # a second
    bandwidth: float = 2.8e12  # bytes a second
    launch: float = 15e-6  # seconds of Python for one kernel, which pass while the one before runs
    processors: int = 132

    def product(self, m: int, n: int, k: int) -> float:
        """Seconds of the arithmetic of an [m, k] x [k, n] product, in waves of tiles of 128 x 256."""
        tiles = -(-m // 128) * -(-n // 256)
        filled = tiles / (-(-tiles // self.processors) * self.processors)
        return 2 * m * n * k / self.flops / max(filled, 0.5)  # a product of few tiles is split along k

    def seconds(self, step: Step, shape: Shape) -> float:
        """A step's products and half of its traffic, whose other half passes meanwhile; or the time to start them."""
        n, w, d, launches = step.rows, step.columns, shape.width, 1 + step.hidden + step.weight
        work = self.product(n, w, d)
        if step.hidden:
            work += self.product(n, d, w)
        if step.weight:
            work += self.product(w, d, n)
        return max(work + moved(step, shape) / 2 / self.bandwidth, launches * self.launch)


def moved(step: Step, shape: Shape) -> int:
    """Bytes read and written in one step, if no cache held any of them."""
    n, w, d, item = step.rows, step.columns, shape.width, shape.item
    signal, hidden, weight = n * w * item, n * d * item, w * d * item
    total = hidden + weight + signal
    if step.hidden:
        total += signal + weight + n * d * 4 * (1 + step.add_hidden) + (step.last and hidden + n * d * 4)
    if step.weight:
        total += signal + hidden + weight * (1 + step.add_weight)
    return total


@dataclass(frozen=True)
class Plan:
    """The steps in order, the extra buffer's bytes, and what they are predicted to cost."""

    steps: tuple[Step, ...]
    extra: int
    products: float  # matrix products of the size of all logits
    moved: int  # bytes
    seconds: float


def plan(shape: Shape, *, hidden: bool, weight: bool, rounded: bool = False, machine: Machine = Machine()) -> Plan:
    """The fastest way to the gradients asked for, that of the hidden states and that of the weight.

    ``rounded`` allows the rows of the weight's gradient to be rounded more than once.
    """
    coarse = replace(shape, tokens=-(-shape.tokens // COARSE) * COARSE)
    for arrange in _ranking(coarse, hidden, weight, rounded, machine):
        steps = arrange(shape)
        if steps is not None:
            return _evaluated(steps, shape, machine)
    raise AssertionError("the last arrangement of a ranking always fits")


def _evaluated(steps: list[Step], shape: Shape, machine: Machine) -> Plan:
    extra = max((r.stop for s in steps for r in (s.signal, s.sums) if r is not None and r.arena == "extra"), default=0)
    kinds: dict[tuple[int | bool, ...], tuple[Step, int]] = {}  # most steps are alike
    for s in steps:
        key = (s.stop_row - s.first_row, s.stop - s.first, s.hidden, s.weight, s.add_hidden, s.add_weight, s.last)
        kinds[key] = (s, kinds.get(key, (s, 0))[1] + 1)
    return Plan(
        tuple(steps),
        extra,
        sum(s.rows * s.columns * (1 + s.hidden + s.weight) * k for s, k in kinds.values())
        / shape.tokens
        / shape.entries,
        sum(moved(s, shape) * k for s, k in kinds.values()),
        sum(machine.seconds(s, shape) * k for s, k in kinds.values()),
    )


Arrange = Callable[[Shape], "list[Step] | None"]


@lru_cache(maxsize=64)
def _ranking(shape: Shape, hidden: bool, weight: bool, rounded: bool, machine: Machine) -> tuple[Arrange, ...]:
    """The best arrangement for this shape, and one that fits always."""
    if not hidden:
        return (_weight_alone,) if weight else (_signal_alone,)
    if not weight:
        return (_hidden_only,)
    chunks = [_filling(chunk, shape, machine) for chunk in CHUNKS]
    signals: tuple[Arena, ...] = ("extra", "hidden", "weight")
    sums: tuple[Arena, ...] = ("weight",) if shape.item == 4 else ("extra", "weight")
    best: Arrange = _apart
    least = _evaluated(_apart(shape), shape, machine).seconds
    for parts, chunk, signal_in, sums_in, whole in product(PARTS, chunks, signals, sums, (False, True)):
        arrange = _Together(parts, chunk, signal_in, sums_in, whole)
        steps = arrange(shape) if parts == 1 or whole or rounded else None
        if steps is not None and (found := _evaluated(steps, shape, machine).seconds) < least:
            best, least = arrange, found
    return (best, _apart)


def _filling(chunk: int, shape: Shape, machine: Machine) -> int:
    """The number of columns, above half of ``chunk``, of which the products of a step fill whole waves best."""

    def cost(w: int) -> float:
        return (machine.product(w, shape.width, shape.tokens) + machine.product(shape.tokens, w, shape.width)) / w

    return min(range(chunk, chunk // 2, -128), key=cost)


def _apart(shape: Shape) -> list[Step]:
    """First dE for all entries, then dC: four products; it fits always."""
    return [*_hidden_only(shape), *_weight_only(shape, 0)]


def _weight_alone(shape: Shape) -> list[Step]:
    return list(_weight_only(shape, 0))


def _signal_alone(shape: Shape) -> list[Step]:
    """Only G, for the gradient of a bias."""
    n, w = shape.tokens, max(_columns(EXTRA, shape.tokens, shape.item, CHUNKS[-1]), FEWEST)
    bounds = [(first, min(first + w, shape.entries)) for first in range(0, shape.entries, w)]
    rooms = [Room("extra", 0, _signal_bytes(n, stop - first, shape.item)) for first, stop in bounds]
    return [Step(0, n, *b, r, _up(b[1] - b[0], STRIDE), hidden=False, weight=False) for b, r in zip(bounds, rooms)]


@dataclass(frozen=True)
class _Together:
    """Both gradients from one G, but for the tail's entries; ``whole``: all entries are the tail."""

    parts: int
    chunk: int
    signal_in: Arena
    sums_in: Arena
    whole: bool

    def __call__(self, shape: Shape) -> list[Step] | None:
        """None where there is not enough room."""
        n = min(shape.tokens, _up(-(-shape.tokens // self.parts), PART_ROWS))
        if self.parts > 1 and n == shape.tokens:
            return None
        bounds = [(first, min(first + n, shape.tokens)) for first in range(0, shape.tokens, n)]
        sums = 0 if shape.item == 4 else _up(n * shape.width * 4, ALIGN)  # float32: dE is its own sums
        beside = sums if self.sums_in == "extra" else 0
        if beside > EXTRA:
            return None
        w = min(self.chunk, shape.entries)
        if self.signal_in == "extra":
            w = _columns(EXTRA - beside, n, shape.item, w)
        elif self.signal_in == "hidden":
            w = min(_columns(_free(shape, part).size, part[1] - part[0], shape.item, w) for part in bounds)
        if w < min(NARROW, shape.entries):
            return None
        signal = _signal_bytes(n, w, shape.item)
        in_tail = (sums if self.sums_in == "weight" else 0) + (signal if self.signal_in == "weight" else 0)
        line = shape.width * shape.item
        tail = shape.entries if self.whole else -(-(in_tail + ALIGN) // line) if in_tail else 0
        front = shape.entries - tail
        start = _up(front * line, ALIGN)
        if front < 0 or start + in_tail > shape.entries * line:
            return None
        steps: list[Step] = []
        for part in bounds:
            free = {"extra": beside, "hidden": _free(shape, part).start, "weight": start + in_tail - signal}
            into = Room(self.signal_in, free[self.signal_in], signal)
            at = Room(self.sums_in, start if self.sums_in == "weight" else 0, sums) if sums else None
            steps += _one_part(shape, part, front, w, into, at)
        return [*steps, *_weight_only(shape, front)]


def _one_part(
    shape: Shape, part: tuple[int, int], front: int, chunk: int, signal: Room, sums: Room | None
) -> Iterator[Step]:
    """Both gradients over the entries before ``front``, dE alone over the others."""
    for low, high in ((0, front), (front, shape.entries)):
        for first in range(low, high, chunk):
            stop = min(first + chunk, high)
            yield Step(
                *part,
                first,
                stop,
                Room(signal.arena, signal.start, _signal_bytes(part[1] - part[0], stop - first, shape.item)),
                _up(stop - first, STRIDE),
                hidden=True,
                weight=high == front,
                sums=sums,
                add_hidden=first > 0,
                add_weight=high == front and part[0] > 0,
                last=stop == shape.entries,
            )


def _weight_only(shape: Shape, first: int) -> Iterator[Step]:
    """dC from row ``first`` on: G lies in the rows after those that it makes, at last in the extra buffer."""
    n, item, line = shape.tokens, shape.item, shape.width * shape.item
    beside = max(_columns(EXTRA, n, item, CHUNKS[-1]), FEWEST)
    while first < shape.entries:
        left = shape.entries - first
        behind = _round_down(left * shape.width // (n + shape.width) - ALIGN // line - 1)
        w = min(left, max(behind, beside), CHUNKS[-1])
        stop = first + w
        size, after = _signal_bytes(n, w, item), _up(stop * line, ALIGN)
        fits = after + size <= shape.entries * line
        into = Room("weight", after, size) if fits and w > beside else Room("extra", 0, size)
        yield Step(0, n, first, stop, into, _up(w, STRIDE), hidden=False, weight=True)
        first = stop


def _hidden_only(shape: Shape) -> list[Step]:
    """dE, a part of the tokens at a time: its sums lie in later rows or the extra buffer, G in the largest room."""
    steps: list[Step] = []
    first, line, end = 0, shape.width * shape.item, shape.tokens * shape.width * shape.item
    while first < shape.tokens:
        left = shape.tokens - first
        behind = left // 3 - 1 - ALIGN // line if shape.item == 2 else left * shape.width // (CHUNKS[0] + shape.width)
        beside = EXTRA // (4 * (shape.width if shape.item == 2 else CHUNKS[0]))
        n = min(left, max(behind, beside, 1))
        stop = first + n
        after, extra, sums = _up(stop * line, ALIGN), 0, None
        if shape.item != 4:
            size = _up(n * shape.width * 4, ALIGN)
            sums = Room("hidden", after, size) if after + size <= end else Room("extra", 0, size)
            after, extra = (sums.stop, 0) if sums.arena == "hidden" else (after, size)
        rooms = [Room("hidden", after, max(0, end - after)), Room("extra", extra, max(0, EXTRA - extra))]
        if sums is not None:
            own = _up(first * line, ALIGN)
            rooms.append(Room("hidden", own, stop * line - own))
        room = max(rooms, key=lambda r: r.size)
        w = _columns(room.size, n, shape.item, min(CHUNKS[-1], shape.entries))
        if w < min(FEWEST, shape.entries):
            room, w = rooms[1], min(FEWEST, shape.entries)
        steps += _one_part(shape, (first, stop), 0, w, room, sums)
        first = stop
    return steps


def _free(shape: Shape, part: tuple[int, int]) -> Room:
    """What of dE is not needed while a part is made: its own rows, unless they are its sums, and those after it."""
    line = shape.width * shape.item
    start = _up((part[1] if shape.item == 4 else part[0]) * line, ALIGN)
    return Room("hidden", start, max(0, shape.tokens * line - start))


def _signal_bytes(rows: int, columns: int, item: int) -> int:
    return _up(rows * _up(columns, STRIDE) * item, ALIGN)


def _columns(size: int, rows: int, item: int, most: int) -> int:
    """How many columns of G fit into ``size`` bytes, at most ``most``; rounded down where they do not all fit."""
    if _signal_bytes(rows, most, item) <= size:
        return most
    columns = _round_down(size // (rows * item))
    while columns > 0 and _signal_bytes(rows, columns, item) > size:
        columns = _round_down(columns - 1)
    return columns


def _round_down(columns: int) -> int:
    """To whole tiles; to what a matrix product can load at once where there is not even one."""
    return columns // 64 * 64 if columns >= 64 else max(columns, 0) // STRIDE * STRIDE


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
