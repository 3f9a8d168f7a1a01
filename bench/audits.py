"""How much faster an audit's questions are answered in batches than one row at a time.

    python bench/audits.py                  # SmolLM2-135M on 48 generated rows
    python bench/audits.py --model tiny-llama --json audits.json

Both sides ask the same model for the same figures and answers: the loop calls transformers row by row, as a short
evaluation script does; the other side is a Subject.  They alternate, and the best of ``--rounds`` counts on each side.
Processor time stands beside wall time, since it hardly changes when the machine has other work; with ``--threads 1``
no thread waits in it.  Where the answers do not agree, the script says so and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row
from palimpsest.zoo.authors import authors
from palimpsest.zoo.models import load_causal_lm

T = TypeVar("T")


def score_one_by_one(model: Any, adapter: CausalLM, rows: Sequence[Row]) -> list[Tensor]:
    """The answers' log-probabilities from the whole logits, one forward pass a row."""
    found = []
    for row in rows:
        example = {k: v.to(model.device) for k, v in adapter.encode(row).items()}
        with torch.no_grad():
            logits = model(input_ids=example["input_ids"][None]).logits[0, :-1].float()  # [T-1, V]
        targets = example["labels"][1:]
        logp = logits.log_softmax(-1).gather(-1, targets.clamp_min(0)[:, None])[:, 0]
        found.append(logp[targets != -100].cpu())
    return found


def generate_one_by_one(model: Any, adapter: CausalLM, rows: Sequence[Row], tokens: int) -> list[str]:
    """Greedy answers, one call of ``generate`` a row."""
    found = []
    for row in rows:
        ids = torch.tensor([adapter.prompt(row)], device=model.device)
        mask = torch.ones_like(ids)
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens)
        found.append(adapter.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return found


def best(rounds: int, *sides: Callable[[], T]) -> tuple[list[tuple[float, float]], list[T]]:
    """Each side's fewest (wall seconds, processor seconds), sides alternating, and what each returned last."""
    seconds = [(math.inf, math.inf)] * len(sides)
    answers: list[T] = []
    for _ in range(rounds):
        answers = []
        for i, side in enumerate(sides):
            wall, processor = time.perf_counter(), time.process_time()
            answers.append(side())
            took = time.perf_counter() - wall, time.process_time() - processor
            seconds[i] = min(seconds[i][0], took[0]), min(seconds[i][1], took[1])
    return seconds, answers


def compared(loop: tuple[float, float], batched: tuple[float, float]) -> dict[str, float]:
    """Seconds of both sides and their ratios."""
    return {
        "loop_seconds": loop[0],
        "batched_seconds": batched[0],
        "ratio": loop[0] / batched[0],
        "loop_processor_seconds": loop[1],
        "batched_processor_seconds": batched[1],
        "processor_ratio": loop[1] / batched[1],
    }


def measure(model: Any, adapter: CausalLM, rows: Sequence[Row], tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds and ratios of both questions, and how far the answers lie apart."""
    subject = adapter.subject(model)
    subject.logp(rows[:2])
    score_one_by_one(model, adapter, rows[:2])
    (slow, fast), (a, b) = best(rounds, lambda: score_one_by_one(model, adapter, rows), lambda: subject.logp(rows))
    apart = max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
    (slower, faster), (said, batched) = best(
        rounds, lambda: generate_one_by_one(model, adapter, rows, tokens), lambda: subject.generate(rows, tokens)
    )
    alike = sum(x == y for x, y in zip(said, batched, strict=True)) / len(rows)
    loop, whole = (slow[0] + slower[0], slow[1] + slower[1]), (fast[0] + faster[0], fast[1] + faster[1])
    rows_found = [
        {"part": "score", **compared(slow, fast)},
        {"part": "generate", **compared(slower, faster)},
        {"part": "together", **compared(loop, whole)},
    ]
    return {"rows": rows_found, "largest_difference_of_scores": apart, "share_of_same_texts": alike}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes ``--json``; ends with 1 where the two sides do not agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m", help="a zoo name, a folder or a hub id")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="torch threads; all cores by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    model, tokenizer = load_causal_lm(given.model)
    adapter = CausalLM(tokenizer, chat=given.model.startswith("smollm2"))
    rows = authors((given.rows + 3) // 4, 4)[: given.rows]
    found = measure(model.to(given.device), adapter, rows, given.tokens, given.rounds)
    found |= {"model": given.model, "questions": len(rows), "tokens": given.tokens, "device": given.device}
    found |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    for part in found["rows"]:
        print(
            f"{part['part']:9} loop {part['loop_seconds']:7.2f} s   batched {part['batched_seconds']:7.2f} s   "
            f"{part['ratio']:.1f} times as fast ({part['processor_ratio']:.1f} in processor time)"
        )
    apart, alike = found["largest_difference_of_scores"], found["share_of_same_texts"]
    print(f"log-probabilities differ by at most {apart:.1e}; {100 * alike:.0f} % of the texts are identical")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    agree = apart < 1e-2 and alike >= 0.9
    if not agree:
        print("The two sides do not agree, so the ratio compares different work.", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
