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

import palimpsest.run  # noqa: F401
from palimpsest import cli, verbs

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


def telling(tell: int, most: int) -> Callable[[], None]:
    """A life that writes a byte to ``tell`` for every file that it makes last, and comes to a halt after ``most``."""

    def before() -> None:
        fsync, done = os.fsync, []

        def told(descriptor: int) -> None:
            if len(done) == most:
                signal.pause()
            done.append(1)
            os.write(tell, b".")
            fsync(descriptor)

        os.fsync = told

    return before


def whole() -> dict[str, Any]:
    """The run that nobody ends, and how many files it made last."""
    hear, tell = os.pipe()
    pid, said = life("whole", telling(tell, most=10_000))
    os.close(tell)
    with open(hear, "rb") as heard:
        files = len(heard.read())
    return {**end(pid, said), "files": files}


def killed(chance: random.Random, kills: int) -> list[int]:
    """Kills the run again and again, a moment after another few files; returns the signals that ended its lives.

    No life gets far enough to end by itself, however fast or slow the machine is.
    """
    ends = []
    most = FOUND["whole"]["files"] // (kills + 1)
    for _ in range(kills):
        hear, tell = os.pipe()
        pid, _ = life("killed", telling(tell, most))
        os.close(tell)
        with open(hear, "rb", buffering=0) as heard:
            for _ in range(chance.randint(most // 2, most)):
                heard.read(1)
            time.sleep(chance.uniform(0.0, 0.05))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        ends.append(os.waitstatus_to_exitcode(status))
    return ends


def interrupted(words: str, out: str) -> dict[str, Any]:
    """Ctrl-C as soon as the run has said ``words``."""

    def before() -> None:
        show = verbs._show

        def shown(text: str) -> None:
            show(text)
            if words in text:
                os.kill(os.getpid(), signal.SIGINT)

        verbs._show = shown

    return end(*life(out, before))


def full_disk() -> None:
    """No file above 20 kB: a checkpoint of the tiny model does not fit, a report does not either."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def full_disk_for_reports() -> None:
    """The stages fit, the report does not."""
    module: Any = sys.modules["palimpsest.run"]  # the package's ``run`` is the function
    report = module.build_report

    def fill(*arguments: Any, **more: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
        return report(*arguments, **more)

    module.build_report = fill


def main() -> None:
    FOUND["whole"] = whole()
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
