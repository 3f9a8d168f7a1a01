"""What a sequence of tasks costs beside its training: time for each audit after each stage, and memory.

    python bench/stages.py [--items 400] [--json FILE]

Each number of tasks is a recipe of its own, run in a process of its own: one step of training a stage, and after each
stage ten audits of every task.  T tasks make 10 T (T + 1) stage-audits.  An audit here costs next to nothing and gives
400 items with a text each, so that what is measured is asking, keeping, reading back, matrices and the report.  From 5
tasks to 10, processor time, which a busy machine leaves alone, grows as stage-audits to the power of at most 1.15, and
the peak by at most half of what the added results are on disk (in memory they would take more): the report holds those
of the model before and after all stages, and none of those between.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

POWER_LIMIT, MEMORY_LIMIT = 1.15, 0.5
AUDITS = 10


def recipe(tasks: int, items: int) -> dict[str, Any]:
    """As many tasks, of two rows each, which ten audits measure."""
    roles: dict[str, Any] = {}
    for t in range(1, tasks + 1):
        roles[f"task {t}"] = {"zoo": "digits", "classes": [t % 10]}
        roles[f"test {t}"] = {"zoo": "digits", "part": "test", "classes": [t % 10]}
        roles[f"seen {t}"] = [f"task {s}" for s in range(max(1, t - 9), t + 1)]
    train = {"steps": 1, "batch": 2, "lr": 1e-3}
    stages = [
        {"name": f"task {t}", "objective": [{"on": f"seen {t}", "cross_entropy": {}}], "train": train}
        for t in range(1, tasks + 1)
    ]
    audits = [{f"bench_stages:Audit{n}": {"items": items}} for n in range(AUDITS)]
    return {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": roles,
        "stages": stages,
        "tasks": {f"task {t}": f"test {t}" for t in range(1, tasks + 1)},
        "audits": {f"test {t}": audits for t in range(1, tasks + 1)},
    }


def audits(module: Any) -> None:
    """Gives ``module`` the classes Audit0 to Audit9."""
    import torch

    from palimpsest.audit import Row, Scores, Subject

    @dataclass(frozen=True)
    class Audit:
        """So many items, each with a value that the stage moves a little, and a text."""

        items: int = 400
        own_items: ClassVar[bool] = True

        def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
            base = float(subject.predict(data[role][:1])[0, 0])
            ids = tuple(f"{role}/item-{i:05d}" for i in range(self.items))
            values = torch.sin(torch.arange(self.items, dtype=torch.float64) + base)
            return Scores("audit", values, ids, outputs=tuple(f"{name} says {'words ' * 16}" for name in ids))

    for n in range(AUDITS):
        setattr(module, f"Audit{n}", type(f"Audit{n}", (Audit,), {}))


def measure(tasks: int, items: int) -> dict[str, float]:
    """Processor seconds of a run and the peak of this process in MB, above what it had once everything was imported."""
    import types

    from palimpsest.heap import keep_heap
    from palimpsest.recipe_source import parse_recipe
    from palimpsest.run import run

    module = types.ModuleType("bench_stages")
    audits(module)
    sys.modules["bench_stages"] = module
    keep_heap()
    with tempfile.TemporaryDirectory() as folder:
        run(parse_recipe(recipe(1, 4), allow_imports=True), Path(folder) / "warm", allow_imports=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, wall = time.process_time(), time.perf_counter()
        run(parse_recipe(recipe(tasks, items), allow_imports=True), Path(folder) / "run", allow_imports=True)
        seconds, wall = time.process_time() - start, time.perf_counter() - wall
        kept = sum(file.stat().st_size for file in Path(folder).glob("run/seed-0/**/scores.jsonl"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = {"grown_mb": (peak - before) / 1024, "peak_mb": peak / 1024, "written_mb": kept / 2**20}
    return {"seconds": seconds, "wall_seconds": wall, **memory}


def in_own_process(tasks: int, items: int) -> dict[str, float]:
    """``measure`` in a process that has measured nothing before."""
    command = [sys.executable, __file__, "--one", str(tasks), "--items", str(items)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes ``--json``; ends with 1 above a limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        print(json.dumps(measure(given.one, given.items)))
        return 0
    sizes = (5, 10)
    found = {tasks: in_own_process(tasks, given.items) for tasks in sizes}
    counts = {tasks: AUDITS * tasks * (tasks + 1) for tasks in sizes}
    for tasks, part in found.items():
        each = 1000 * part["seconds"] / counts[tasks]
        print(
            f"{tasks:3} tasks  {counts[tasks]:5} stage-audits  {part['seconds']:7.2f} s  {each:6.2f} ms each  "
            f"peak {part['peak_mb']:6.0f} MB, {part['grown_mb']:5.0f} MB of it in the run  "
            f"{part['written_mb']:6.1f} MB of results"
        )
    few, many = (found[tasks] for tasks in sizes)
    power = math.log(many["seconds"] / few["seconds"]) / math.log(counts[10] / counts[5])
    growth = (many["grown_mb"] - few["grown_mb"]) / (many["written_mb"] - few["written_mb"])
    print(f"time grows as stage-audits to the power of {power:.2f} (limit {POWER_LIMIT})")
    print(f"memory grows by {growth:.2f} of the results that were added (limit {MEMORY_LIMIT})")
    if given.json:
        figures = {"power": power, "memory": growth, "items": given.items, "audits": AUDITS}
        given.json.write_text(json.dumps({**{str(t): part for t, part in found.items()}, **figures}, indent=1) + "\n")
    return 0 if power <= POWER_LIMIT and growth <= MEMORY_LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
