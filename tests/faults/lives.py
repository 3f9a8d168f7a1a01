"""Run by ``test_run_faults.py``: one recipe, run to its end, and again with its process ended at many moments.

Every life is a process of its own, forked from this one, which has imported everything and computed nothing.  What
each of them said, and how it ended, is written to ``lives.json``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import torch
import transformers.models.llama  # noqa: F401

import palimpsest.run
from palimpsest import cli

RECIPE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
FOUND: dict[str, Any] = {}


def life(out: str, before: Callable[[], None] = lambda: None) -> tuple[int, Path]:
    """(process id, the file that its standard error goes to) of ``palimpsest run``."""
    said = FOLDER / f"{out}.{time.monotonic_ns()}.err"
    pid = os.fork()
    if pid:
        return pid, said
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before()
    status = cli.main(["run", str(RECIPE), "--out", str(FOLDER / out)])
    sys.stderr.flush()
    os._exit(status)


def end(pid: int, said: Path) -> dict[str, Any]:
    """How a life ended."""
    _, status = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status), "said": said.read_text()}


def until(said: Path, words: str, pid: int) -> None:
    """Waits until a life has said ``words`` (or has ended)."""
    while words not in (said.read_text() if said.exists() else ""):
        time.sleep(0.002)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return


def killed(chance: random.Random, kills: int) -> list[int]:
    """Kills the run again and again, later and later; returns the signals that ended its lives."""
    ends = []
    length = FOUND["whole"]["seconds"]
    for kill in range(kills):
        pid, _ = life("killed")
        time.sleep(length * chance.uniform(0.1, 0.35 + 0.1 * kill))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        ends.append(os.waitstatus_to_exitcode(status))
    return ends


def interrupted(words: str, out: str) -> dict[str, Any]:
    """Ctrl-C as soon as the run has said ``words``."""
    pid, said = life(out)
    until(said, words, pid)
    os.kill(pid, signal.SIGINT)
    return end(pid, said)


def full_disk() -> None:
    """No file above 20 kB: a checkpoint of the tiny model does not fit, a report does not either."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def full_disk_for_reports() -> None:
    """The stages fit, the report does not."""
    report = palimpsest.run.build_report

    def fill(*arguments: Any, **more: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
        return report(*arguments, **more)

    palimpsest.run.build_report = fill  # type: ignore[attr-defined]


def main() -> None:
    start = time.perf_counter()
    FOUND["whole"] = end(*life("whole"))
    FOUND["whole"]["seconds"] = time.perf_counter() - start
    FOUND["kills"] = killed(random.Random(3), 6)
    FOUND["killed"] = end(*life("killed"))
    FOUND["in training"] = interrupted("step 1/", "interrupted")
    FOUND["in audits"] = interrupted("second: audits", "interrupted")
    FOUND["interrupted"] = end(*life("interrupted"))
    FOUND["full"] = end(*life("full", full_disk))
    FOUND["filled"] = end(*life("full"))
    FOUND["full at the report"] = end(*life("reported", full_disk_for_reports))
    shutil.copytree(FOLDER / "reported", FOLDER / "kept")
    FOUND["reported"] = end(*life("reported"))
    (FOLDER / "lives.json").write_text(json.dumps(FOUND))


if __name__ == "__main__":
    main()
