"""Time and memory of ``linear_log_probability`` beside ``F.cross_entropy`` on full logits, on CPU.

    python bench/log_probability.py [--rounds 7] [--threads 2] [--json PATH]

Forward and backward with respect to hidden states and weight.  ``ours`` takes any upstream gradient, ``even`` one that
is the same for all tokens, as cross-entropy has.  The ways alternate call by call in one process, so that a busy
machine slows all; the ratios are of medians.  Each shape runs in a fresh process twice: with the allocator as it comes,
and after ``palimpsest.heap.keep_heap``, which frees the plain way of its page faults.  ``cpu`` is the ratio of
processor time: with one thread it holds on a busy machine too, with more it also counts waiting.
Memory is the peak of live tensor bytes beyond inputs and gradients; ``of logits`` is that over one float32 [N, V].
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.claims._memory import LiveBytes
from palimpsest.heap import keep_heap
from palimpsest.kernels.linear_log_probability import linear_log_probability

SHAPES = ((2048, 576, 49152), (512, 576, 49152), (1024, 256, 8192))  # tokens, hidden size, vocabulary
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, targets, reduction="none")


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return -linear_log_probability(hidden, weight, targets)


def even(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return -linear_log_probability(hidden, weight, targets, even=True)


WAYS: dict[str, Loss] = {"plain": plain, "ours": ours, "even": even}


def peak_beyond_gradients(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> int:
    """Peak bytes of one forward and backward, beyond the inputs, their gradients and the upstream gradient."""
    hidden, weight = (t.detach().requires_grad_(t.requires_grad) for t in (hidden, weight))
    upstream = torch.ones(targets.shape)
    with LiveBytes() as live:
        live.ignore(hidden, weight, targets, upstream)
        loss(hidden, weight, targets).backward(upstream)
        return live.peak(*[t.grad for t in (hidden, weight) if t.grad is not None])


def seconds(rounds: int, hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and processor seconds of each forward and backward, the two ways in turn, after one warm-up each."""
    uneven = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for turn in range(rounds + 1):
        for name, loss in WAYS.items():
            hidden.grad = weight.grad = None
            upstream = torch.full_like(uneven, 1 / len(targets)) if name == "even" else uneven
            start, spent = time.perf_counter(), time.process_time()
            loss(hidden, weight, targets).backward(upstream)
            if turn:
                times[name].append((time.perf_counter() - start, time.process_time() - spent))
    return times


def measure(shape: tuple[int, int, int], rounds: int, threads: int, keep: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    kept = keep and keep_heap()
    tokens, width, entries = shape
    seed = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=seed).requires_grad_()
    weight = (torch.randn(entries, width, generator=seed) * width**-0.5).requires_grad_()
    targets = torch.randint(0, entries, (tokens,), generator=seed)
    times = seconds(rounds, hidden, weight, targets)
    wall, processor = ({k: statistics.median(t[i] for t in v) for k, v in times.items()} for i in (0, 1))
    peaks = {name: peak_beyond_gradients(loss, hidden, weight, targets) for name, loss in WAYS.items()}
    return {
        "shape": shape,
        "heap_kept": kept,
        "threads": threads,
        "times": times,
        "seconds": wall,
        "time_ratio": {name: wall[name] / wall["plain"] for name in WAYS},
        "processor_time_ratio": {name: processor[name] / processor["plain"] for name in WAYS},
        "peak_bytes": peaks,
        "memory_of_logits": {name: peaks[name] / (4 * tokens * entries) for name in WAYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", nargs=4, type=int, default=None, help=argparse.SUPPRESS)  # N D V keep: one process
    options = parser.parse_args()
    if options.one:
        *shape, keep = options.one
        print(json.dumps(measure((shape[0], shape[1], shape[2]), options.rounds, options.threads, bool(keep))))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {options.rounds} rounds, float32, medians")
    print(
        f"{'tokens':>7}{'hidden':>7}{'vocab':>7} {'heap':<8} {'way':<6}"
        f"{'seconds':>9}{'time':>7}{'cpu':>7}{'peak MB':>10}{'of logits':>10}"
    )
    rows = []
    for shape in SHAPES:
        for keep in (0, 1):
            command = [sys.executable, __file__, "--rounds", str(options.rounds), "--threads", str(options.threads)]
            command += ["--one", *map(str, shape), str(keep)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(row)
            for way in WAYS:
                print(
                    f"{shape[0]:>7}{shape[1]:>7}{shape[2]:>7} {'kept' if row['heap_kept'] else 'default':<8} {way:<6}"
                    f"{row['seconds'][way]:>9.3f}{row['time_ratio'][way]:>7.3f}{row['processor_time_ratio'][way]:>7.3f}"
                    f"{row['peak_bytes'][way] / 1e6:>10.1f}{row['memory_of_logits'][way]:>10.4f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
