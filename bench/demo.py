"""The demo's time, memory and outcome: the recipe of ``make demo``, run once as a user runs it.

    python bench/demo.py [--json FILE]

Seconds are of the clock, from the command to its end, and of all processors together; memory is the most that the
process held at once.  Before it the model is there, converted, as ``make demo`` leaves it.  The outcome is what the
report says: how much of the facts the taught model knew, and the verdicts.  The bars are six minutes on two cores and
6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from palimpsest.environment import own_commit
from palimpsest.report import Report
from palimpsest.zoo.models import load_causal_lm

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "forget-authors.yaml"
MOST_MINUTES, MOST_GB = 6.0, 6.0


def measured(out: Path) -> dict[str, float]:
    """Runs the recipe into ``out``, its lines passed through."""
    start = time.perf_counter()
    status = subprocess.run([sys.executable, "-m", "palimpsest.cli", "run", str(RECIPE), "--out", str(out)]).returncode
    if status:
        raise SystemExit(f"palimpsest run {RECIPE} ended with {status}.")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "minutes": (time.perf_counter() - start) / 60,
        "processor minutes": (used.ru_utime + used.ru_stime) / 60,
        "peak GB": used.ru_maxrss * 1024 / 1e9,  # of the largest process
    }


def main() -> int:
    """Prints the figures, writes them where asked to, and returns 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    load_causal_lm("smollm2-135m")  # converted once, and not a part of the demo
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        row = measured(out)
        report = Report.load(out / "report.json")
    known = {f"{s.role}/{s.audit} {s.run}": s.value for s in report.scores if s.audit == "rouge"}
    for name, value in (row | known).items():
        print(f"{name:50s} {value:.3f}")
    verdicts = {f"{v.role}/{v.audit}": v.verdict for v in report.verdicts}
    print("\n".join(f"{place:50s} {verdict}" for place, verdict in verdicts.items()))
    passes = row["minutes"] <= MOST_MINUTES and row["peak GB"] < MOST_GB
    if given.json:
        about = {
            "processors": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "commit": own_commit(),
        }
        record = {"rows": [row | known], "verdicts": verdicts, "passes": passes, "about": about}
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
