"""Time, memory and error of ``linear_cross_entropy`` beside its peers, in one run on one card.

    python bench/cross_entropy.py [--shapes gemma llama smol] [--repeats 20] [--seconds 450] [--json PATH]

Every shape is measured on flat logits (a fresh model) and on trained-like ones: a prior over the vocabulary that falls
with its rank, as frequencies of words do, noise that depends on the token, and a preference for the target that is set
so that the mean loss is 1.5 nats.  The peers are PyTorch as it stands, ``torch.compile`` of the same, and the packages
cut-cross-entropy and liger-kernel where they are installed.

Milliseconds are medians after warm-up by CUDA events, with the 10th and 90th percentile of both; ``beyond`` is the peak
of a forward and backward beyond inputs and gradients.  Errors are relative, against float32 products of the same
inputs: of dE, of dC, and of the row of dE that is hit hardest.  ``floor`` is what the matrix products alone take here:
three as without recomputation, four with.

On a card, tiles are tried before the ways of a shape, and the fastest are used (``--no-tune``: those of ``tiles.py``).
What was measured is in ``--json`` at once, however the run ends.  ``--shapes tiny`` runs in seconds without a GPU and
measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _clock import Clock, timed
from palimpsest.kernels.cut_cross_entropy import linear_cross_entropy
from palimpsest.kernels.cut_cross_entropy.plan import Shape, plan

SHAPES = {  # tokens, width, entries
    "gemma": (8192, 2304, 256000),
    "llama": (8192, 4096, 128256),
    "smol": (16384, 576, 49152),
    "tiny": (32, 16, 300),
}
NATS = 1.5
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Row:
    """One way on one kind of logits."""

    shape: str
    logits: str
    way: str
    loss: float
    forward: float  # milliseconds, medians
    backward: float
    both: float
    low: float  # of both
    high: float
    beyond: int | None  # bytes
    of_hidden: float  # relative errors
    of_weight: float
    worst_row: float
    kept: float | None = None


def data(kind: str, shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """e and c in bfloat16 and targets, the same in every run."""
    n, d, v = shape
    seed = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=seed, device=device)
    if kind == "flat":
        return (
            draw(n, d).bfloat16(),
            (draw(v, d) * d**-0.5).bfloat16(),
            torch.randint(0, v, (n,), generator=seed, device=device),
        )
    c = F.normalize(draw(v, d - 1), dim=1)
    prior = -torch.arange(10, v + 10, device=device).log()
    targets = torch.multinomial(prior.exp(), n, replacement=True, generator=seed)
    noise, likely = 2.0 * draw(n, d - 1), c[targets]
    c = torch.cat([prior.unsqueeze(1), c], 1).bfloat16()

    def states(preference: float) -> Tensor:
        return torch.cat([torch.ones(n, 1, device=device), noise + preference * likely], 1).bfloat16()

    low, high = 0.0, 40.0
    for _ in range(20):  # on a few tokens
        middle = (low + high) / 2
        few = states(middle)[:256].float()
        loss = float(F.cross_entropy(few @ c.float().T, targets[:256]))
        low, high = (middle, high) if loss > NATS else (low, middle)
    return states(high), c, targets


def eager(e: Tensor, c: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((e @ c.T).float(), targets)


def ways(device: torch.device, eps: float) -> dict[str, Loss]:
    """Ours first, then the peers that are there."""
    ours = partial(linear_cross_entropy, backend="triton" if INTERPRETED else "auto")
    found: dict[str, Loss] = {"ours, exact": ours}
    if device.type == "cuda" or INTERPRETED:
        found[f"ours, filter {eps:g}"] = partial(ours, filter_eps=eps)
        found["ours, bf16 sums"] = partial(ours, accumulate=torch.bfloat16)
    found["eager"] = eager
    if device.type == "cuda":
        found["torch.compile"] = torch.compile(eager, dynamic=False)
        if find_spec("cut_cross_entropy"):
            from cut_cross_entropy import linear_cross_entropy as released

            found["cut-cross-entropy"] = released
            found["cut-cross-entropy, exact"] = partial(released, impl="cce_exact")
        if find_spec("liger_kernel"):
            from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

            liger = LigerFusedLinearCrossEntropyLoss()
            found["Liger"] = lambda e, c, targets: liger(c, e, targets)
    return found


def floor(e: Tensor, c: Tensor, repeats: int) -> tuple[float, float]:
    """Milliseconds of the product that makes all logits, and of the two that make the gradients from theirs."""
    device, logits = e.device, torch.empty(len(e), len(c), dtype=e.dtype, device=e.device)
    into_e, into_c = torch.empty_like(e), torch.empty_like(c)
    first = timed(lambda: torch.mm(e, c.T, out=logits), device, repeats)
    second = timed(lambda: torch.mm(logits, c, out=into_e), device, repeats)
    return first, second + timed(lambda: torch.mm(logits.T, e, out=into_c), device, repeats)


def truth(e: Tensor, c: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the mean in float32."""
    leaves = [t.float().requires_grad_() for t in (e, c)]
    return torch.autograd.grad(linear_cross_entropy(leaves[0], leaves[1], targets, backend="chunked"), leaves)  # type: ignore[return-value]


def distance(found: Tensor, right: Tensor) -> float:
    """Relative, a piece at a time: a float32 copy of the largest would be large."""
    square = sum(float((a.float() - b).square().sum()) for a, b in zip(found.split(8192), right.split(8192)))
    return (square / float(right.square().sum())) ** 0.5


def measure(
    loss: Loss, given: tuple[Tensor, Tensor, Tensor], right: tuple[Tensor, Tensor], repeats: int
) -> dict[str, Any]:
    """Times, memory and errors of one way."""
    e, c = (t.detach().requires_grad_() for t in given[:2])
    targets, device = given[2], e.device
    clock, moments = Clock(device), []
    warm, beyond = 3 if device.type == "cuda" else 0, None
    for turn in range(repeats + warm):
        e.grad = c.grad = None
        if device.type == "cuda" and turn == 2:  # compiled by now
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = clock.now()
        value = loss(e, c, targets)
        value = value[0] if isinstance(value, tuple) else value
        middle = clock.now()
        value.backward()
        moments.append((start, middle, clock.now()))
        if device.type == "cuda" and turn == 2:
            torch.cuda.synchronize()
            beyond = (
                torch.cuda.max_memory_allocated() - before - sum(t.grad.nbytes for t in (e, c) if t.grad is not None)
            )
    assert e.grad is not None and c.grad is not None
    both = sorted(clock.between(m[0], m[2]) for m in moments[warm:])
    rows = (e.grad.float() - right[0]).norm(dim=1) / right[0].norm(dim=1).clamp(min=1e-30)
    return {
        "loss": float(value.detach()),
        "forward": statistics.median(clock.between(m[0], m[1]) for m in moments[warm:]),
        "backward": statistics.median(clock.between(m[1], m[2]) for m in moments[warm:]),
        "both": statistics.median(both),
        "low": both[len(both) // 10],
        "high": both[-1 - len(both) // 10],
        "beyond": beyond,
        "of_hidden": distance(e.grad, right[0]),
        "of_weight": distance(c.grad, right[1]),
        "worst_row": float(rows.max()),
    }


def kept(given: tuple[Tensor, Tensor, Tensor], eps: float) -> tuple[float, float, float]:
    """Share of the blocks that the filter keeps, and the mean and largest probability that a token loses."""
    from palimpsest.kernels.cut_cross_entropy.filtered import diagnose

    choice = diagnose(*given, filter_eps=eps)
    return choice.share, float(choice.dropped.mean()), float(choice.dropped.max())


def line(row: Row) -> str:
    beyond = "-" if row.beyond is None else f"{row.beyond / 1e6:.1f}"
    share = "" if row.kept is None else f"{row.kept:.3f}"
    times = f"{row.forward:>9.2f}{row.backward:>9.2f}{row.both:>9.2f} {f'{row.low:.2f}-{row.high:.2f}':>15}"
    errors = f"{row.of_hidden:>9.5f}{row.of_weight:>9.5f}{row.worst_row:>9.4f}"
    return f"{row.way:<26}{row.loss:>9.4f}{times}{beyond:>10}{errors}{share:>7}"


HEADER = (
    f"{'':<26}{'loss':>9}{'forward':>9}{'backward':>9}{'both ms':>9} {'10 %-90 %':>15}"
    f"{'beyond MB':>10}{'dE':>9}{'dC':>9}{'worst':>9}{'kept':>7}"
)


def run_shape(name: str, options: argparse.Namespace, device: torch.device, end: float) -> Iterator[dict[str, Any]]:
    """Prints and yields everything about one shape."""
    for kind in ("trained", "flat"):
        given = data(kind, SHAPES[name], device)
        if kind == "trained":
            first, others = floor(given[0], given[1], options.repeats)
            floors = {"one": first, "three": first + others, "four": 2 * first + others}
            products = ", ".join(f"{k} products {ms:.2f} ms" for k, ms in floors.items())
            print(f"\n{name} {SHAPES[name]}: {products}", flush=True)
            yield {"shape": name, **floors}
            n, d, v = SHAPES[name]
            scheme = plan(Shape(n, d, v, 2), hidden=True, weight=True)
            share, moved, ms = scheme.products, scheme.moved / 1e9, scheme.seconds * 1e3
            print(
                f"    planned backward: {share:.2f} products, {moved:.1f} GB moved, {ms:.1f} ms predicted for an H100"
            )
            if options.sweep is not None:
                from _tile_sweep import tune

                yield from ({"shape": name, "tile": row} for row in tune(*given, options.eps, options.sweep, end))
        right = truth(*given)
        print(f"{kind} logits\n{HEADER}")
        for way, loss in ways(device, options.eps).items():
            if time.monotonic() > end:
                print(f"{way:<26} left out: the time is up")
                continue
            try:
                found = measure(loss, given, right, options.repeats)
            except Exception as error:  # a way that fails on a card is a line, not the end of the run
                if device.type == "cpu":
                    raise
                print(f"{way:<26} {type(error).__name__}: {str(error)[:80]!r}", flush=True)
                yield {"shape": name, "logits": kind, "way": way, "error": f"{type(error).__name__}: {error}"[:500]}
                torch.cuda.empty_cache()
                continue
            share = kept(given, options.eps) if "filter" in way else None
            row = Row(name, kind, way, kept=None if share is None else share[0], **found)
            print(line(row), flush=True)
            yield asdict(row) | ({} if share is None else {"dropped_mean": share[1], "dropped_most": share[2]})
        del right, given


def write(path: Path, found: dict[str, Any]) -> None:
    """At once: however the run is cut short, what was measured before is there, and whole."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    usual = ["gemma", "llama", "smol"] if device.type == "cuda" else ["tiny"]
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=usual)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--eps", type=float, default=0.01, help="the share of probability that the filter may drop")
    parser.add_argument("--no-tune", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU: a smoke test, not a measurement"
    print(f"{card}, torch {torch.__version__}, bfloat16, mean reduction, {options.repeats} repeats")
    end, rows = time.monotonic() + options.seconds, []
    found = {"card": card, "torch": torch.__version__, "repeats": options.repeats, "rows": rows}
    options.sweep = None
    if device.type == "cuda" and not options.no_tune:
        from _tile_sweep import trusted

        options.sweep = trusted()
    for name in options.shapes:
        for row in run_shape(name, options, device, end):
            rows.append(row)
            if options.json:
                write(options.json, found)


if __name__ == "__main__":
    main()
