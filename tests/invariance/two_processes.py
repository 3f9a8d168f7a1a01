"""Run by ``test_processes.py``: trains the same model on one process and on two, each way, and writes the weights.

Processes are forked before torch has computed anything, so that torch is imported once.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.checkpoint import write_tensors
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Stopped, Training, fit
from palimpsest.mask import Mask
from palimpsest.objective import Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.kl_to_reference import KLToReference
from palimpsest.objectives.npo import NPO
from palimpsest.reference import Copy
from palimpsest.roles import Roles
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama

Weights = dict[str, Tensor]
SGD = Training(steps=3, batch=8, lr=1e-2, clip=0.5, optimizer="sgd")
ADAMW = Training(steps=3, batch=8, lr=1e-3, accumulation=2)


@functools.cache
def material() -> tuple[nn.Module, Roles, Total]:
    """A tiny model, rows whose lengths differ much, and an objective with token and sequence units."""
    model, tokenizer = tiny_llama(width=32)
    rows = [{"text": r["text"][: 40 + 13 * i]} for i, r in enumerate(articles(20, seed=0))]
    roles = CausalLM(tokenizer).roles(forget=rows[::2], retain=rows[1::2])
    objective = on("forget", NPO(beta=0.5)) + on("retain", CrossEntropy()) + 0.5 * on("retain", KLToReference())
    return model, roles, objective


def weights(model: nn.Module) -> Weights:
    """All parameters, gathered where FSDP split them."""
    bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    named = {n: p.detach() for n, p in bare.named_parameters()}
    return {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in named.items()}


def plain(training: Training, wrap: Callable[[nn.Module], nn.Module] = lambda m: m, mask: bool = False) -> Weights:
    """The plain loop on a model that ``wrap`` prepared; curves and tokens are written as if they were weights."""
    model, roles, objective = material()
    reference = Copy(model)
    wrapped = wrap(model)
    chosen = half_mask(model) if mask else None
    result = fit(wrapped, roles, objective, training, reference=reference, mask=chosen)
    curves = {f"curve/{n}": torch.tensor([v for _, v in points]) for n, points in result.curves.items()}
    found = {**weights(wrapped), **curves, "tokens": torch.tensor(result.tokens)}
    assert wrap is not fsdp or all(isinstance(p, DTensor) for p in wrapped.parameters())
    return found


def half_mask(model: nn.Module) -> Mask:
    """Every second entry of the MLP weights may move."""
    named = {n: p for n, p in model.named_parameters() if "mlp" in n}
    return Mask({n: (torch.arange(p.numel()) % 2 == 0).view(p.shape) for n, p in named.items()})


def ddp(model: nn.Module) -> nn.Module:
    """DistributedDataParallel."""
    return nn.parallel.DistributedDataParallel(model)


def fsdp(model: nn.Module) -> nn.Module:
    """FSDP2: every block and the root."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.model.layers:  # type: ignore[union-attr]
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def trainer(training: Training) -> Weights:
    """The Trainer; accelerate wraps the model in DDP where there are several processes."""
    model, roles, objective = material()
    result = fit_with_trainer(model, roles, objective, training, reference=Copy(model))
    return {**weights(model), "tokens": torch.tensor(result.tokens)}


def not_finite() -> Weights:
    """A row that only the second process sees is poisoned: both must stop, with the same sentence."""
    model, roles, _ = material()

    class Poisoned(CrossEntropy):
        def __call__(self, view: object, state: nn.Module | None = None) -> Tensor:
            value = super().__call__(view, state)  # type: ignore[arg-type]
            return value * float("nan") if dist.get_rank() == 1 else value

    objective = on("forget", CrossEntropy()) + on("retain", Poisoned())
    before = weights(model)
    try:
        fit(model, roles, objective, SGD)
    except Stopped as error:
        same = all(torch.equal(v, before[n]) for n, v in weights(model).items())
        return {"stopped": torch.tensor("step 1 of 3" in str(error) and "retain/" in str(error) and same)}
    return {"stopped": torch.tensor(False)}


RUNS: dict[str, Callable[[], Weights]] = {
    "start": lambda: weights(material()[0]),
    "plain-sgd": lambda: plain(SGD),
    "plain-adamw": lambda: plain(ADAMW),
    "masked-sgd": lambda: plain(SGD, mask=True),
}
PAIRS: dict[str, Callable[[], Weights]] = {
    "plain-sgd": lambda: plain(SGD),
    "plain-adamw": lambda: plain(ADAMW),
    "masked-sgd": lambda: plain(SGD, mask=True),
    "ddp-sgd": lambda: plain(SGD, ddp),
    "ddp-adamw": lambda: plain(ADAMW, ddp),
    "ddp-masked-sgd": lambda: plain(SGD, ddp, mask=True),
    "fsdp-sgd": lambda: plain(SGD, fsdp),
    "fsdp-adamw": lambda: plain(ADAMW, fsdp),
    "trainer-sgd": lambda: trainer(SGD),
    "trainer-adamw": lambda: trainer(ADAMW),
    "not-finite": not_finite,
}


def child(run: Callable[[], Weights], rank: int, world: int, meeting: Path, target: Path) -> None:
    """One process of one run; rank 0 writes what came out."""
    torch.set_num_threads(1)
    if world > 1:
        launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({name: str(value) for name, value in launch.items()})
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    found = run()
    if rank == 0:
        write_tensors(target, found)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def fork(run: Callable[[], Weights], rank: int, world: int, meeting: Path, target: Path) -> int:
    """The id of a process that runs ``child``."""
    pid = os.fork()
    if pid:
        return pid
    try:
        child(run, rank, world, meeting, target)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(folder: Path, names: list[str]) -> None:
    """Writes ``folder/<name>-<world>.safetensors`` for every run; a run that failed leaves none."""
    material()  # made once; every process has its own copy
    jobs = [(n, r, 1) for n, r in RUNS.items()] + [(n, r, 2) for n, r in PAIRS.items()]
    with tempfile.TemporaryDirectory() as meetings:
        for name, run, world in jobs:
            if names and name not in names:
                continue
            target = folder / f"{name}-{world}.safetensors"
            pids = [fork(run, rank, world, Path(meetings) / f"{name}-{world}", target) for rank in range(world)]
            for pid in pids:
                os.waitpid(pid, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
