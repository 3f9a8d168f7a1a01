"""Run by ``test_recipes_on_processes.py``: two processes that know each other as torchrun's do run a folder's recipes.

What ``<folder>/<name>.yaml`` gives stands in ``<folder>/two/<name>``; of a recipe that is refused, the sentence stands
in ``<folder>/two/<name>-<rank>.txt``.  Processes are forked, so that torch is imported once.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

import torch

import palimpsest.hf
from palimpsest.processes import joined
from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import load_recipe
from palimpsest.run import run

assert palimpsest.hf  # imported here for both processes


def work(home: Path, rank: int, port: int) -> None:
    """All that one of the two processes does."""
    torch.set_num_threads(1)
    launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "localhost", **{name: str(value) for name, value in launch.items()}})
    with joined():
        for file in sorted(home.glob("*.yaml")):
            try:
                run(load_recipe(file), home / "two" / file.stem)
            except RecipeError as error:
                (home / "two" / f"{file.stem}-{rank}.txt").write_text(str(error))


def forked(home: Path, rank: int, port: int) -> int:
    """The id of a process that does ``work``."""
    pid = os.fork()
    if not pid:
        try:
            work(home, rank, port)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [forked(Path(sys.argv[1]), rank, port) for rank in (0, 1)]
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started))
