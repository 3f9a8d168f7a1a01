"""One process of the test of dropout on several: rank, world, a file to meet at, and a file to write what was drawn."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.step import Step

TRAINING = Training(steps=4, batch=8, accumulation=2, lr=0.1, checkpoint_every=2)
DRAWN = []


class Watched(nn.Dropout):
    """Dropout that remembers what it let through."""

    def forward(self, values):
        kept = super().forward(torch.ones_like(values))
        DRAWN.append(kept[:2] > 0)  # as many rows whatever the number of processes
        return values * kept


class Killed(Exception):
    """Stands for a kill: nothing is saved."""


def kill(progress):
    """After the third step, of which no checkpoint was written."""
    if progress.step == 3:
        raise Killed


def trained(how, folder, on_step=None, seed=5):
    """Weights, and what was drawn by step and micro-batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), Watched(0.5), nn.Linear(32, 3))
    rows = [{"inputs": torch.randn(3), "label": i % 3} for i in range(24)]
    DRAWN.clear()
    how(
        model,
        Classifier(3).roles(task=rows),
        on("task", CrossEntropy()),
        TRAINING,
        seed=seed,
        folder=folder,
        on_step=on_step,
    )
    return {"weights": torch.cat([p.detach().flatten() for p in model.parameters()]), "drawn": torch.stack(DRAWN)}


def by_hand(model, roles, objective, training, *, seed, **_):
    """A loop of the user's own, which does not number its steps."""
    step = Step(objective, model, seed=seed)
    place = {"rank": dist.get_rank(), "world": dist.get_world_size(), "accumulation": training.accumulation}
    for number in range(training.steps):
        batches = roles.window(number, training.batch, seed=seed, **place)
        counts = step.count(batches)
        for batch in batches:
            step.backward(batch, counts, 0.0, micro=len(batches))
        step.gradients()


def killed(how, folder):
    """The same by a run that was killed and went on."""
    try:
        trained(how, folder, kill)
    except Killed:
        dist.barrier()
    return trained(how, folder)


if __name__ == "__main__":
    rank, world, meet, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in launch.items()})
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    found = {}
    for name, how in {"plain": fit, "trainer": fit_with_trainer}.items():
        found[name] = trained(how, out.with_name(f"{name}-whole"))
        found[f"{name}, killed"] = killed(how, out.with_name(f"{name}-killed"))
    found["by hand"] = trained(by_hand, None)
    found["other seed"] = trained(fit, None, seed=6)
    state = torch.get_rng_state()
    torch.save({**found, "after": state}, out)
    dist.destroy_process_group()
