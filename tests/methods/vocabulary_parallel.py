"""Run by the tests of cut cross-entropy: two processes hold a head together and write what they computed.

python vocabulary_parallel.py BACKEND FOLDER
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from palimpsest.kernels.cut_cross_entropy import linear_cross_entropy

ROWS = (31, 19)  # entries that each process holds
SOFTCAP, SCALE = 4.0, 1.2


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """e, c, bias, targets and an upstream gradient, of the whole head."""
    seed = torch.Generator().manual_seed(11)
    e, c = torch.randn(12, 16, generator=seed), torch.randn(sum(ROWS), 16, generator=seed)
    bias, upstream = torch.randn(sum(ROWS), generator=seed), torch.randn(2, 12, generator=seed)
    targets = torch.randint(0, sum(ROWS), (12,), generator=seed)
    targets[5] = -100
    return e, c, bias, targets, upstream


def run(rank: int, backend: str, folder: Path) -> None:
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    e, c, bias, targets, upstream = problem()
    own = slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None)
    leaves = [e.requires_grad_(), c[own].clone().requires_grad_(), bias[own].clone().requires_grad_()]
    group = dist.group.WORLD
    assert group is not None
    nll, lse = linear_cross_entropy(
        leaves[0],
        leaves[1],
        targets,
        leaves[2],
        softcap=SOFTCAP,
        scale=SCALE,
        reduction="none",
        return_lse=True,
        process_group=group,
        backend=backend,  # type: ignore[arg-type]
    )
    ((nll * upstream[0]).sum() + (lse * upstream[1]).sum()).backward()
    torch.save([nll.detach(), lse.detach(), *(t.grad for t in leaves)], folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main(backend: str, folder: Path) -> None:
    """Forks before torch has computed anything, so that it is imported once."""
    if backend == "triton":
        import triton_interpreter

        triton_interpreter.repair()
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                run(rank, backend, folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(codes))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
