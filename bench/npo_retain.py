"""Negative preference optimization with a retain term: one forward and a cached reference against the usual way.

    python bench/npo_retain.py [--steps 10] [--json FILE]

The usual way runs the model on the forget rows, the reference on the forget rows (with a KL retain term on the retain
rows too), and the model on the retain rows, each with full logits and ``F.cross_entropy``.  A forward costs 1 and a
backward 2 a role, so the usual way costs 7 (8 with KL) and ours 6: the arithmetic bounds are 7/6 and 8/6.

Time: both take turns step by step in one process, so that a busy machine slows both; the median of ratios is
reported.  Memory: each runs alone in a fresh process; the peak of live tensor bytes, model and reference included, and
the peak resident memory of the process above what it had before there was a model.  Goal: at most 0.6 of the usual.
What glibc's heap keeps between blocks is resident too: ``apart`` is the resident peak of processes whose blocks above
1 MiB are mapped by themselves (``MALLOC_MMAP_THRESHOLD_``), and given back when they are freed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row
from palimpsest.objective import Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.kl_to_reference import KLToReference
from palimpsest.objectives.npo import NPO
from palimpsest.reference import cache
from palimpsest.roles import RoleBatch, Roles
from palimpsest.step import Step
from palimpsest.views import Batch, Example
from palimpsest.zoo.models import tiny_llama

APART = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Glibc maps every larger block by itself."""
BETA, VOCABULARY, LENGTH, BATCH = 0.1, 32000, 128, 8  # the vocabulary of Llama 2, the smallest in common use
RETAIN = {"cross_entropy": CrossEntropy(), "kl_to_reference": KLToReference()}
BOUND = {"cross_entropy": 7 / 6, "kl_to_reference": 8 / 6}
TakeStep = Callable[[RoleBatch], float]


@dataclass(frozen=True, eq=False)
class Numbers(CausalLM):
    """Rows that hold token ids in place of text."""

    def encode(self, row: Row, place: str = "row") -> Example:
        return {"input_ids": row["ids"], "labels": row["ids"]}


def material() -> tuple[nn.Module, Roles]:
    """A Llama of random weights and rows of random tokens, all equally long so that neither way pays for padding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    rows = [{"ids": torch.randint(3, VOCABULARY, (LENGTH,))} for _ in range(64)]
    return LlamaForCausalLM(config).train(), Numbers(tiny_llama()[1]).roles(forget=rows[:32], retain=rows[32:])


def ours(model: nn.Module, roles: Roles, retain: str) -> TakeStep:
    """The library: one forward over both roles, what the reference says stored before."""
    needed = ("forget", "retain") if retain == "kl_to_reference" else ("forget",)
    total: Total = on("forget", NPO(beta=BETA)) + on("retain", RETAIN[retain])
    step = Step(total, model, cache(roles, model, needed, full=retain == "kl_to_reference"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def take(batch: RoleBatch) -> float:
        counts = step.count([batch])
        losses = step.backward(batch, counts, 0.0)
        step.gradients()
        step.clip(1.0)
        optimizer.step()
        step.after(optimizer)
        optimizer.zero_grad()
        return float(losses.total.detach())

    return take


def usual(model: nn.Module, roles: Roles, retain: str) -> TakeStep:
    """Three forwards (four with KL) with full logits, as unlearning scripts have it, and one backward."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def logits(of: nn.Module, batch: Batch) -> Tensor:
        return of(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits

    def loss_by_row(found: Tensor, labels: Tensor) -> Tensor:
        shifted, targets = found[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        return F.cross_entropy(shifted.transpose(-1, -2), targets, reduction="none").sum(-1)

    def take(batch: RoleBatch) -> float:
        forget, kept = batch["forget"], batch["retain"]
        forget_loss = loss_by_row(logits(model, forget), forget["labels"])
        with torch.no_grad():
            reference_loss = loss_by_row(logits(reference, forget), forget["labels"])
        loss = -F.logsigmoid(BETA * (forget_loss - reference_loss)).mean() * 2 / BETA
        if retain == "cross_entropy":
            found = logits(model, kept)[..., :-1, :].contiguous()
            loss = loss + F.cross_entropy(found.view(-1, found.shape[-1]), kept["labels"][..., 1:].reshape(-1))
        else:
            with torch.no_grad():
                before = F.log_softmax(logits(reference, kept)[..., :-1, :], dim=-1).view(-1, VOCABULARY)
            now = F.log_softmax(logits(model, kept)[..., :-1, :], dim=-1).view(-1, VOCABULARY)
            loss = loss + F.kl_div(now, before, reduction="batchmean", log_target=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return take


WAYS: Mapping[str, Callable[[nn.Module, Roles, str], TakeStep]] = {"ours": ours, "usual": usual}


class LiveBytes(TorchDispatchMode):
    """Follows every tensor that an operation returns until its storage is freed; ``peak`` in bytes."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.live: dict[StorageWeakRef, int] = {}
        self.start, self.peak = start, start

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.live.setdefault(StorageWeakRef(storage), storage.nbytes())
        self.live = {w: n for w, n in self.live.items() if not w.expired()}
        self.peak = max(self.peak, self.start + sum(self.live.values()))
        return result


def resident(kind: str) -> int:
    """Resident bytes of this process on Linux: ``VmRSS`` now, ``VmHWM`` at most (ru_maxrss counts the parent's)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def memory(way: str, retain: str) -> dict[str, int]:
    """Peak bytes of a few steps in this process, which has done nothing else."""
    model, roles = material()
    before = resident("VmRSS")
    weights = sum(p.nbytes for p in model.parameters())
    with LiveBytes(weights) as bytes_:
        take = WAYS[way](model, roles, retain)
        for number in range(3):
            take(roles.window(number, BATCH, seed=0)[0])
    return {"live": bytes_.peak, "resident": resident("VmHWM") - before + weights}


def in_fresh_process(way: str, retain: str, settings: Mapping[str, str]) -> dict[str, int]:
    """``memory`` in a process of its own with more ``settings`` in its environment."""
    command = [sys.executable, __file__, "--memory", way, retain]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def race(retain: str, steps: int) -> dict[str, Any]:
    """Seconds of both ways step by step, and how far their losses are apart."""
    model, roles = material()
    takes = {way: make(copy.deepcopy(model), roles, retain) for way, make in WAYS.items()}
    seconds: dict[str, list[float]] = {way: [] for way in takes}
    difference = 0.0
    for number in range(steps + 2):
        batch = roles.window(number, BATCH, seed=0)[0]
        losses = []
        for way, take in takes.items():
            start = time.perf_counter()
            losses.append(take(batch))
            seconds[way].append(time.perf_counter() - start)
        difference = max(difference, abs(losses[0] - losses[1]) / abs(losses[1]))
    ratios = [slow / fast for slow, fast in zip(seconds["usual"][2:], seconds["ours"][2:])]
    peaks = {way: in_fresh_process(way, retain, {}) for way in WAYS}
    apart = {way: in_fresh_process(way, retain, APART) for way in WAYS}
    return {
        "retain": retain,
        "seconds_per_step_usual": statistics.median(seconds["usual"][2:]),
        "steps_per_second_ratio": statistics.median(ratios),
        "arithmetic_bound": BOUND[retain],
        "peak_live_bytes_ratio": peaks["ours"]["live"] / peaks["usual"]["live"],
        "peak_resident_bytes_ratio": peaks["ours"]["resident"] / peaks["usual"]["resident"],
        "peak_resident_bytes_ratio_apart": apart["ours"]["resident"] / apart["usual"]["resident"],
        "peak_live_megabytes": {way: round(found["live"] / 1e6) for way, found in peaks.items()},
        "largest_relative_difference_of_losses": difference,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", nargs=2, metavar=("WAY", "RETAIN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(memory(*options.memory)))
        return
    rows = [race(retain, options.steps) for retain in RETAIN]
    print(
        f"{'retain term':<17} {'usual s/step':>12} {'faster':>8} {'bound':>7} {'live bytes':>11} {'resident':>9} "
        f"{'apart':>6}  losses differ by"
    )
    for row in rows:
        print(
            f"{row['retain']:<17} {row['seconds_per_step_usual']:>12.3f} {row['steps_per_second_ratio']:>7.3f}x"
            f" {row['arithmetic_bound']:>6.3f}x {row['peak_live_bytes_ratio']:>10.2f}x"
            f" {row['peak_resident_bytes_ratio']:>8.2f}x {row['peak_resident_bytes_ratio_apart']:>5.2f}x"
            f"  {row['largest_relative_difference_of_losses']:.0e}"
        )
    if options.json:
        machine = {
            "machine": platform.processor() or platform.machine(),
            "threads": options.threads,
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({"what": "npo_retain", **machine, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
