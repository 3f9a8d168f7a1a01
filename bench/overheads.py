"""What a run costs beside its work: the report, going on after a kill, and checkpoints.

    python bench/overheads.py [--recipe recipes/two-tasks.yaml] [--rounds 3] [--json FILE]

Each figure is the fewest processor seconds of whole ``palimpsest run`` commands, so that other work on the machine
hardly moves it.  ``whole`` is the run in one life.  ``report`` makes only the report: everything else is read back.
``finished`` reads the report of a finished run, which is what starting the command costs.  ``killed`` is what a run
costs more in two lives, the first ended by SIGKILL in the middle: a second start, and the work since the last
checkpoint.  A checkpoint is that of a Llama of 16 million parameters under AdamW, beside one of its steps, by the
clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from palimpsest import checkpoint
from palimpsest.zoo.models import tiny_llama

COMMAND = (sys.executable, "-m", "palimpsest.cli", "run")
STAGE_DONE = "outcome.json"


def seconds_of(recipe: Path, out: Path, kill_after: str | None = None) -> float:
    """Processor seconds of one life of a run; ``kill_after`` ends it when the first file of that name is there."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        [*COMMAND, str(recipe), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while kill_after is not None and process.poll() is None:
            if next(out.rglob(kill_after), None) is not None:
                process.kill()
            time.sleep(0.02)
        if process.wait() not in (0, -9):
            raise SystemExit(f"palimpsest run {recipe} ended with {process.returncode}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lives(recipe: Path, folder: Path) -> dict[str, float]:
    """The four figures of one round, in seconds."""
    whole = seconds_of(recipe, folder / "whole")
    finished = seconds_of(recipe, folder / "whole")
    for name in ("report.json", "report.html"):
        (folder / "whole" / name).unlink()
    report = seconds_of(recipe, folder / "whole") - finished
    first = seconds_of(recipe, folder / "killed", kill_after=STAGE_DONE)
    killed = first + seconds_of(recipe, folder / "killed") - whole
    same = [(folder / name / "report.json").read_text() for name in ("whole", "killed")]
    if figures(same[0]) != figures(same[1]):
        raise SystemExit("The killed run ended with other figures than the one in one life.")
    return {"whole": whole, "report": report, "finished": finished, "killed": killed}


def figures(report: str) -> object:
    """What must not depend on kills: all but times and memory."""
    found = json.loads(report)
    return [found["scores"], found["changes"], found["matrices"]]


def checkpoints(rounds: int) -> dict[str, float]:
    """Seconds and bytes of a checkpoint, beside the seconds of a step of 8 rows of 128 tokens."""
    model = tiny_llama(vocab_size=32000, width=256, layers=6)[0]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(0, 512, (8, 128))
    saves, steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            start = time.perf_counter()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            middle = time.perf_counter()
            checkpoint.save(Path(folder), turn, model, optimizer, {}, {})
            steps.append(middle - start)
            saves.append(time.perf_counter() - middle)
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    parameters = sum(p.numel() for p in model.parameters())
    return {"step": min(steps[1:]), "save": min(saves[1:]), "bytes": size, "parameters": parameters}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes ``--json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parent.parent / "recipes" / "two-tasks.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    rounds = []
    for _ in range(given.rounds):
        folder = Path(tempfile.mkdtemp())
        rounds.append(lives(given.recipe, folder))
        shutil.rmtree(folder)
    found = {name: min(r[name] for r in rounds) for name in rounds[0]}
    print(f"{given.recipe.name}: {found['whole']:.1f} s, of which {found['finished']:.1f} s are the start")
    print(f"report    {found['report']:6.2f} s, {found['report'] / found['whole']:.1%} of the run")
    print(f"killed    {found['killed']:6.2f} s more for a run in two lives, with the same figures")
    kept = checkpoints(given.rounds)
    print(f"checkpoint {kept['save']:5.2f} s and {kept['bytes'] / 1e6:.0f} MB beside a step of {kept['step']:.2f} s")
    if given.json:
        settings = {"recipe": given.recipe.name, "threads": torch.get_num_threads(), "machine": platform.machine()}
        given.json.write_text(json.dumps({**found, "checkpoint": kept, "settings": settings}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
