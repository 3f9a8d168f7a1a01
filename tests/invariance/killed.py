"""Run by ``test_resume.py``: trains to the end, and again with a SIGKILL at random moments, and writes both ends.

Each life of the run is a process of its own, forked before torch has computed anything.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.checkpoint import write_tensors, write_text
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Progress, Result, Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.npo import NPO
from palimpsest.reference import SlowAverage
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama

STEPS = 24  # above the two that a life adds at most before it is killed
KILLS = 10


class Material:
    """Made before the first fork: a model in which every step depends on the random numbers before it, and data."""

    def __init__(self) -> None:
        self.model, tokenizer = tiny_llama(width=16)
        for block in self.model.model.layers:
            block.self_attn.attention_dropout = 0.2
        rows = [{"text": r["text"][: 30 + 3 * i]} for i, r in enumerate(articles(12, seed=0))]
        self.roles = CausalLM(tokenizer).roles(forget=rows[:6], retain=rows[6:])

    def train(
        self,
        loop: str,
        optimizer: Literal["sgd", "adamw"],
        folder: Path | None,
        on_step: Callable[[Progress], None] | None = None,
    ) -> tuple[nn.Module, Result]:
        """A run with a reference that moves."""
        objective = on("forget", NPO(beta=0.5)) + on("retain", CrossEntropy())
        training = Training(steps=STEPS, batch=4, accumulation=2, lr=1e-2, optimizer=optimizer, checkpoint_every=2)
        how, slow = fit if loop == "plain" else fit_with_trainer, SlowAverage(self.model, 0.9)
        result = how(
            self.model, self.roles, objective, training, seed=7, reference=slow, folder=folder, on_step=on_step
        )
        return self.model, result


def write_end(model: nn.Module, result: Result, target: Path) -> None:
    """Weights, curves and tokens."""
    curves = {f"curve/{n}": torch.tensor(points, dtype=torch.float64) for n, points in result.curves.items()}
    write_tensors(target, {**dict(model.named_parameters()), **curves, "tokens": torch.tensor(result.tokens)})


def fork(work: Callable[[], None]) -> int:
    """The id of a process that does ``work``."""
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(1)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed(made: Material, loop: str, optimizer: Literal["sgd", "adamw"], folder: Path, chance: random.Random) -> None:
    """Trains in ``folder/run``, killed ten times: after a random number of steps and then a random wait.

    After its third step a life that will be killed waits for that, so that none ends by itself on a fast machine.
    """

    def life(tell: int, to_the_end: bool) -> None:
        told = []

        def tell_step(progress: Progress) -> None:
            told.append(os.write(tell, b"."))
            if len(told) == 3 and not to_the_end:
                signal.pause()

        model, result = made.train(loop, optimizer, folder / "run", on_step=tell_step)
        write_end(model, result, folder / "killed.safetensors")

    for kill in range(KILLS + 1):
        hear, tell = os.pipe()
        pid = fork(lambda tell=tell, kill=kill: life(tell, kill == KILLS))  # type: ignore[misc]
        os.close(tell)
        if kill == KILLS:
            os.waitpid(pid, 0)
            break
        last, wait = time.perf_counter(), 0.2
        for _ in range(chance.randrange(4)):
            os.read(hear, 1)
            last, wait = time.perf_counter(), time.perf_counter() - last
        time.sleep(chance.uniform(0.0, 1.5 * min(wait, 0.2)))  # in the middle of a step, or of a checkpoint
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(hear)
        if not os.WIFSIGNALED(status):
            raise RuntimeError(f"life {kill} ended by itself, with status {status}")


def full_disk(made: Material, loop: str, optimizer: Literal["sgd", "adamw"], folder: Path) -> None:
    """A run that may write no file above 20 kB from step 5 on; what it says goes to ``folder/said``."""

    def fill(progress: Progress) -> None:
        if progress.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    try:
        made.train(loop, optimizer, folder / "full", on_step=fill)
    except OSError as error:
        write_text(folder / "said", str(error))


def main(loop: str, optimizer: Literal["sgd", "adamw"], folder: Path, seed: int) -> None:
    """Writes ``whole``, ``killed`` and ``filled`` safetensors, and ``said``."""
    made = Material()
    pids = [fork(lambda: write_end(*made.train(loop, optimizer, None), folder / "whole.safetensors"))]
    pids.append(fork(lambda: full_disk(made, loop, optimizer, folder)))
    for pid in pids:
        os.waitpid(pid, 0)
    again = fork(lambda: write_end(*made.train(loop, optimizer, folder / "full"), folder / "filled.safetensors"))
    killed(made, loop, optimizer, folder, random.Random(seed))
    os.waitpid(again, 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))  # type: ignore[arg-type]
