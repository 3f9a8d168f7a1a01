"""Runs the claims of a paper and keeps what they measured: ``palimpsest verify``.

    results/npo.json        measured with the budget cpu: at most five minutes on two cores
    results/npo-gpu.json    measured with the budget gpu: at most twenty minutes on one card

The file has the paper, the budget, the seeds, the hardware, the commit, the environment, and for each claim its
evidence: verdict, reason, figures with intervals, settings.  It is replaced only when every claim has run.
``seconds`` are those of the clock, ``processor_seconds`` those of all processors together: a machine that did other
work at the same time raises the first and hardly the second.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from palimpsest.checkpoint import write_json
from palimpsest.claim import Budget, Claim, Evidence, PaperEntry, load_paper
from palimpsest.environment import commit_of, environment

__all__ = ["evidence_file", "verify"]

_BEAT = 0.5
"""Seconds between two words on how far a claim is."""


def evidence_file(out: Path, slug: str, budget: Budget) -> Path:
    """Where the evidence of one paper and budget is kept."""
    return out / (f"{slug}.json" if budget == "cpu" else f"{slug}-{budget}.json")


def verify(
    slug: str,
    budget: Budget,
    seeds: Sequence[int],
    out: Path,
    *,
    note: Callable[[str], None] | None = None,
    working: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Runs all claims of the paper ``slug``, writes ``evidence_file`` below ``out`` and returns its content.

    ``note`` is told a sentence before and after each claim, ``working`` twice a second how far it is, from a thread.
    Raises ``LookupError`` for an unknown paper, and ``ValueError`` for a paper without claims, seeds that are missing
    or repeated, the budget gpu on a machine without one, and a figure that is not finite.
    """
    entry = load_paper(slug)
    _check(entry, budget, seeds)
    say, file = note or (lambda text: None), evidence_file(out, slug, budget)
    started, start, worked = datetime.now(UTC), time.perf_counter(), _processor_seconds()
    commit = commit_of(Path(__file__).parent)
    claims, earlier = [], _seconds_before(file, len(seeds))
    for number, claim in enumerate(entry.claims, 1):
        say(f"[{number}/{len(entry.claims)}] {_announced(claim, earlier)}")
        claims.append(_run(claim, budget, seeds, working))
        say(f"    {claims[-1]['evidence']['verdict']} after {_took(claims[-1])}")
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


def _seconds_before(file: Path, seeds: int) -> dict[str, float]:
    """What each claim took when ``file`` was written with as many seeds; nothing where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        record = json.loads(file.read_text(encoding="utf-8"))
        if len(record["seeds"]) == seeds:
            return {claim["claim"]: float(claim["seconds"]) for claim in record["claims"]}
    return {}


def _run(
    claim: type[Claim], budget: Budget, seeds: Sequence[int], working: Callable[[str], None] | None
) -> dict[str, Any]:
    start, worked = time.perf_counter(), _processor_seconds()
    with _watched(seeds, working) as counted:
        evidence = claim().run(budget, counted)
    _finite(claim, evidence)
    return {
        "claim": claim.__name__,
        "says": claim.says,
        "evidence": json.loads(evidence.to_json()),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(_processor_seconds() - worked, 1),
    }


def _announced(claim: type[Claim], earlier: Mapping[str, float]) -> str:
    took = f" ({earlier[claim.__name__]:.0f} s the last time)" if claim.__name__ in earlier else ""
    return f"{claim.__name__}: {claim.says}{took}"


def _took(record: Mapping[str, Any]) -> str:
    return f"{record['seconds']:.0f} s ({record['processor_seconds']:.0f} s of processor time)"


class _Work:
    """How far a claim is, as far as that can be seen from outside: each trains in its own way."""

    def __init__(self) -> None:
        self.start, self.steps, self.seed = time.perf_counter(), 0, ""

    def stepped(self, *_: object) -> None:
        """An optimizer has made a step, whoever asked it to."""
        self.steps += 1

    def __str__(self) -> str:
        step = f"optimizer step {self.steps:,}" if self.steps else ""
        return ", ".join(part for part in (f"{time.perf_counter() - self.start:.0f} s", step, self.seed) if part)


class _Seeds(list[int]):
    """Seeds that tell which of them is at work; a copy of them tells nothing."""

    def __init__(self, seeds: Sequence[int], work: _Work) -> None:
        super().__init__(seeds)
        self.work = work

    def __iter__(self) -> Iterator[int]:
        try:
            for number, seed in enumerate(super().__iter__(), 1):
                self.work.seed = f"seed {number} of {len(self)}"
                yield seed
        finally:
            self.work.seed = ""


@contextlib.contextmanager
def _watched(seeds: Sequence[int], working: Callable[[str], None] | None) -> Iterator[Sequence[int]]:
    """Tells ``working`` how far the work inside is, which is to take its seeds from here."""
    if working is None:
        yield seeds
        return
    work, over = _Work(), threading.Event()

    def beat() -> None:
        with contextlib.suppress(OSError):  # whoever listened has gone
            while not over.wait(_BEAT):
                working(str(work))

    hook = register_optimizer_step_post_hook(work.stepped)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield _Seeds(seeds, work)
    finally:
        over.set()
        hook.remove()
        thread.join()


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
