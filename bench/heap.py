"""Training-step time of a small language model on CPU, with and without ``palimpsest.heap.keep_heap``.

    python bench/heap.py [--steps 3] [--repeats 2] [--threads 2] [--json PATH]

A Llama-shaped model of about 135 million parameters with random weights (no download), 4 sequences of 128 tokens,
AdamW, float32.  Each setting runs in a process of its own, the settings in turn; the first step of each process is a
warm-up.  The ratios are of the medians of all steps; the one of processor time, with one thread, holds on a busy
machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BATCH, LENGTH, VOCABULARY = 4, 128, 49152


def build_model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).float().train()


def measure(steps: int, threads: int) -> dict[str, Any]:
    from palimpsest.heap import keep_heap

    kept = keep_heap()
    import torch

    torch.set_num_threads(threads)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    times: list[float] = []
    processor: list[float] = []
    faults: list[int] = []
    for _ in range(steps + 1):
        ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start, spent = time.perf_counter(), time.process_time()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "kept": kept,
        "threads": threads,
        "seconds": times[1:],
        "processor_seconds": processor[1:],
        "faults": faults[1:],
        "peak_mb": peak,
        "parameters": parameters,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all steps with the default heap and with the kept one, and kept / default."""
    rows = []
    for kept in (False, True):
        own = [run for run in runs if run["kept"] == kept]
        if not own:
            raise SystemExit("bench/heap.py: keep_heap has no effect on this platform, so there is nothing to compare.")
        steps = {name: [x for run in own for x in run[name]] for name in ("seconds", "processor_seconds", "faults")}
        row = {"heap": "kept" if kept else "default", "median_seconds": statistics.median(steps["seconds"])}
        row |= {"lowest_seconds": min(steps["seconds"])}
        row |= {"median_processor_seconds": statistics.median(steps["processor_seconds"])}
        row |= {"median_page_faults": statistics.median(steps["faults"]), "peak_mb": max(r["peak_mb"] for r in own)}
        rows.append(row)
    default, kept_row = rows
    ratios = {name: kept_row[f"median_{name}"] / default[f"median_{name}"] for name in ("seconds", "processor_seconds")}
    same = {name: runs[0][name] for name in ("parameters", "threads")}
    return {"rows": rows, "kept_over_default": ratios, "tokens": [BATCH, LENGTH], **same}


def report(found: dict[str, Any]) -> None:
    tokens = " x ".join(map(str, found["tokens"]))
    print(f"{found['parameters'] / 1e6:.1f}M parameters, {tokens} tokens, {found['threads']} threads, AdamW")
    print(f"{'heap':<9}{'median s':>9}{'lowest s':>9}{'cpu s':>9}{'page faults':>13}{'peak MB':>9}")
    for row in found["rows"]:
        print(
            f"{row['heap']:<9}{row['median_seconds']:>9.3f}{row['lowest_seconds']:>9.3f}"
            f"{row['median_processor_seconds']:>9.3f}{row['median_page_faults']:>13.0f}{row['peak_mb']:>9.0f}"
        )
    ratios = found["kept_over_default"]
    print(f"kept / default: time {ratios['seconds']:.3f}, processor time {ratios['processor_seconds']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # one process's part
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.steps, options.threads)))
        return
    runs = []
    for _ in range(options.repeats):
        for setting in ("0", "1"):
            command = [sys.executable, __file__, "--one", "--steps", str(options.steps)]
            command += ["--threads", str(options.threads)]
            environment = os.environ | {"PALIMPSEST_KEEP_HEAP": setting}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    found = summary(runs)
    report(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
