"""Runs the claims of a paper and keeps what they measured: ``palimpsest verify``.

    results/npo.json        measured with the budget cpu: at most five minutes on two cores
    results/npo-gpu.json    measured with the budget gpu: at most twenty minutes on one card

The file has the paper, the budget, the seeds, the hardware, the commit, the environment, and for each claim its
evidence: verdict, reason, figures with intervals, settings.  It is replaced only when every claim has run.
``seconds`` are those of the clock, ``processor_seconds`` those of all processors together: a machine that did other
work at the same time raises the first and hardly the second.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from palimpsest.checkpoint import write_json
from palimpsest.claim import Budget, Claim, Evidence, PaperEntry, load_paper
from palimpsest.environment import commit_of, environment

__all__ = ["evidence_file", "verify"]


def evidence_file(out: Path, slug: str, budget: Budget) -> Path:
    """Where the evidence of one paper and budget is kept."""
    return out / (f"{slug}.json" if budget == "cpu" else f"{slug}-{budget}.json")


def verify(
    slug: str, budget: Budget, seeds: Sequence[int], out: Path, *, note: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Runs all claims of the paper ``slug``, writes ``evidence_file`` below ``out`` and returns its content.

    ``note`` is told a sentence before and after each claim.  Raises ``LookupError`` for an unknown paper, and
    ``ValueError`` for a paper without claims, seeds that are missing or repeated, the budget gpu on a machine without
    one, and a figure that is not finite.
    """
    entry = load_paper(slug)
    _check(entry, budget, seeds)
    say = note or (lambda text: None)
    started, start, worked = datetime.now(UTC), time.perf_counter(), _processor_seconds()
    commit = commit_of(Path(__file__).parent)
    claims = []
    for number, claim in enumerate(entry.claims, 1):
        say(f"[{number}/{len(entry.claims)}] {claim.__name__}: {claim.says}")
        record = _run(claim, budget, seeds)
        took = f"{record['seconds']:.0f} s ({record['processor_seconds']:.0f} s of processor time)"
        say(f"    {record['evidence']['verdict']} after {took}")
        claims.append(record)
    found = environment()
    result = {
        "paper": slug,
        "budget": budget,
        "seeds": list(seeds),
        "hardware": _hardware(found),
        "commit": commit,
        "environment": found,
        "date": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(_processor_seconds() - worked, 1),
        "claims": claims,
    }
    file = evidence_file(out, slug, budget)
    write_json(file, result)
    say(f"Evidence: {file}")
    return result


def _check(entry: PaperEntry, budget: Budget, seeds: Sequence[int]) -> None:
    if not entry.claims:
        raise ValueError(
            f"The paper {entry.slug!r} has no claim that runs ({entry.state}); "
            "`palimpsest list claimed` shows the papers that have."
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"Give one seed or several different ones with --seeds, not {list(seeds)}.")
    if budget == "gpu" and not torch.cuda.is_available():
        raise ValueError("The budget gpu needs a CUDA device, and there is none here; use --budget cpu.")


def _run(claim: type[Claim], budget: Budget, seeds: Sequence[int]) -> dict[str, Any]:
    start, worked = time.perf_counter(), _processor_seconds()
    evidence = claim().run(budget, seeds)
    _finite(claim, evidence)
    return {
        "claim": claim.__name__,
        "says": claim.says,
        "evidence": json.loads(evidence.to_json()),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(_processor_seconds() - worked, 1),
    }


def _processor_seconds() -> float:
    """What this process and those it started and waited for have used of all processors."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _finite(claim: type[Claim], evidence: Evidence) -> None:
    """A figure that is no number would be refused by the JSON, after minutes and without its name."""
    for figure in evidence.figures:
        if not all(math.isfinite(v) for v in (figure.value, figure.low, figure.high) if v is not None):
            raise ValueError(
                f"{claim.__name__} measured {figure.name} as {figure.value} [{figure.low}, {figure.high}]; "
                "a claim gives finite figures, and None where an interval is undefined."
            )


def _hardware(found: dict[str, object]) -> str:
    device = found["device"]
    cores = f"{found['processors']} processors ({found['threads']} threads)"
    return cores if device == "cpu" else f"{device}, {cores}"
