"""Run by ``test_stream_killed.py``: a recipe with tasks, run to its end, and again with a SIGKILL at many points.

A life of the killed run goes on where the last one ended and kills itself when it comes to its own point: within a
stage, between two audits of a stage, or where a file has been written under its temporary name or to its last line, but
is not yet on the disk.  Each life is a process of its own, forked from this one, which has imported what takes long and
computed nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch  # noqa: F401
import sklearn.datasets
import sklearn.model_selection  # noqa: F401
import torch
import torch._dynamo

import palimpsest.page  # noqa: F401
from palimpsest.audit import Trainable
from palimpsest.audits.accuracy import Accuracy
from palimpsest.loop import Progress
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class AtStep(Quiet):
    """Dies after a step of a stage, before anything is made of it."""

    def __init__(self, label: str, step: int) -> None:
        self.label, self.step = label, step

    def progress(self, label: str, progress: Progress) -> None:
        if (label, progress.step) == (self.label, self.step):
            die()


def at_audit(number: int) -> Quiet:
    """Dies within the audit with that number of this life."""
    measure, asked = Accuracy.__call__, []

    def counted(self: Accuracy, *given: Any) -> Any:
        asked.extend([1] * isinstance(given[0], Trainable))  # not in the rehearsal, which has no model
        if len(asked) == number:
            die()
        return measure(self, *given)

    Accuracy.__call__ = counted  # type: ignore[method-assign]
    return Quiet()


def at_file(ending: str, number: int) -> Quiet:
    """Dies while the file that is the ``number``-th of this life with such a name is being written."""
    flush, seen = os.fsync, []

    def counted(descriptor: int) -> None:
        if ending in Path(os.readlink(f"/proc/self/fd/{descriptor}")).name:
            seen.append(1)
            if len(seen) == number:
                die()
        flush(descriptor)

    os.fsync = counted
    return Quiet()


POINTS: dict[str, Callable[[], Quiet]] = {
    "first stage, between two checkpoints": lambda: AtStep("one to three: one", 3),
    "its weights": lambda: at_file("model.safetensors", 2),  # the first are those of a checkpoint
    "audits after it": lambda: at_audit(3),
    "second stage, first step": lambda: AtStep("one to three: two", 1),
    "a checkpoint": lambda: at_file("model.safetensors", 1),
    "states that the second stage leaves": lambda: at_file("states.safetensors", 1),
    "a line of scores": lambda: at_file("scores.jsonl", 2),
    "last stage, last step": lambda: AtStep("one to three: three", 6),
    "k-FPF, between two rounds": lambda: AtStep("k-FPF: two", 5),
    "PRD, second stage": lambda: AtStep("PRD: two", 3),
    "the report": lambda: at_file("report.json", 1),
}


def life(recipe: Any, out: Path, point: Callable[[], Quiet]) -> int:
    """How a process ended in which the recipe was run: 0, or the signal's number below 0."""
    pid = os.fork()
    if not pid:
        try:
            torch.set_num_threads(1)
            run(parse_recipe(recipe), out, events=point())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main(folder: Path) -> None:
    """Runs ``recipe.json`` to ``whole`` and to ``killed``; how each life ended goes to ``ends.json``."""
    recipe = json.loads((folder / "recipe.json").read_text())
    ends = {name: life(recipe, folder / "killed", point) for name, point in POINTS.items()}
    ends["killed"] = life(recipe, folder / "killed", Quiet)
    ends["whole"] = life(recipe, folder / "whole", Quiet)
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
