"""Time and memory of one exact update of an output layer, factored and dense, from a thousand classes to a million.

    python bench/spherical.py [--inputs 128] [--items 32] [--rounds 20] [--threads 1] [--json PATH]

An update is forward, backward with respect to the inputs, and the step of gradient descent on the weights.  The
factored layer trains with the Z-loss; the dense one with log-softmax, and with the Z-loss on its logits.  Each row runs
in a fresh process.  ``ms`` is the fastest of the rounds in processor time, which holds on a busy machine too; ``MB`` is
how far updates raise the peak resident memory that the process had when its weights were made.  The dense layer stops
at ``--dense`` classes (100,000): on a CPU a million take seconds an update and gigabytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.layers.spherical_output import FactoredOutput
from palimpsest.objectives.spherical_z import z_loss
from palimpsest.views import Moments

CLASSES = (1_000, 10_000, 100_000, 1_000_000)
WAYS = ("factored", "log-softmax", "dense Z-loss")
RATE = 0.01
Loss = Callable[[Tensor, Tensor], Tensor]


def factored(weight: Tensor, hidden: Tensor, labels: Tensor) -> Callable[[], None]:
    layer = FactoredOutput(weight, learning_rate=RATE)
    del weight

    def update() -> None:
        hidden.grad = None
        z_loss(layer.moments(hidden, labels)).mean().backward()
        layer.apply_update()

    return update


def dense(loss: Loss, weight: Tensor, hidden: Tensor, labels: Tensor) -> Callable[[], None]:
    weight.requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=RATE)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        hidden.grad = None
        loss(hidden @ weight.T, labels).backward()
        optimizer.step()

    return update


def peak() -> float:
    """Peak resident memory so far in MB (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, classes: int, inputs: int, items: int, rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    seed = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, inputs, generator=seed).mul_(inputs**-0.5)
    hidden = torch.randn(items, inputs, generator=seed).requires_grad_()
    labels = torch.randint(0, classes, (items,), generator=seed)
    if way == "factored":
        update = factored(weight, hidden, labels)
    elif way == "log-softmax":
        update = dense(F.cross_entropy, weight, hidden, labels)
    else:
        update = dense(lambda o, c: z_loss(Moments.of(o, c)).mean(), weight, hidden, labels)
    before = peak()
    update()
    wall, processor = [], []
    for _ in range(rounds):
        start, spent = time.perf_counter(), time.process_time()
        update()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    row = {"way": way, "classes": classes, "inputs": inputs, "items": items, "threads": threads, "rounds": rounds}
    return row | {"seconds": min(wall), "processor_seconds": min(processor), "update_mb": peak() - before}


def report(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    sizes = f"{first['inputs']} inputs, {first['items']} items, {first['threads']} threads, float32"
    print(f"torch {torch.__version__}, {sizes}; ratio: log-softmax over factored")
    print(f"{'classes':>9}" + "".join(f"{way + ' ms':>17}{'MB':>8}" for way in WAYS) + f"{'ratio':>8}")
    for classes in sorted({row["classes"] for row in rows}):
        own = {row["way"]: row for row in rows if row["classes"] == classes}
        cells = ""
        for way in WAYS:
            milliseconds, megabytes = "-", "-"
            if way in own:
                milliseconds = f"{1000 * own[way]['processor_seconds']:.2f}"
                megabytes = f"{own[way]['update_mb']:.0f}"
            cells += f"{milliseconds:>17}{megabytes:>8}"
        ratio = "-"
        if "log-softmax" in own:
            ratio = f"{own['log-softmax']['processor_seconds'] / own['factored']['processor_seconds']:.1f}"
        print(f"{classes:>9}{cells}{ratio:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=128)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dense", type=int, default=100_000, help="the most classes for the dense layer")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)  # way, classes: one process
    options = parser.parse_args()
    if options.one:
        way, classes = options.one[0], int(options.one[1])
        print(json.dumps(measure(way, classes, options.inputs, options.items, options.rounds, options.threads)))
        return
    rows = []
    for classes in CLASSES:
        for way in WAYS:
            if way != "factored" and classes > options.dense:
                continue
            command = [sys.executable, __file__, "--one", way, str(classes), "--rounds", str(options.rounds)]
            command += ["--inputs", str(options.inputs), "--items", str(options.items)]
            command += ["--threads", str(options.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    report(rows)
    if options.dense < max(CLASSES):
        print(f"The dense layer stops at {options.dense:,} classes; raise --dense to go on.")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
