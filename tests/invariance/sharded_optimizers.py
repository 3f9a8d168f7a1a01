"""One process of the test of optimizers under FSDP2: rank, world, a file to meet at, and a file for the weights."""

import dataclasses
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from palimpsest import names

SMALL = {"rank": 3, "update_gap": 3, "density": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in names.names("optim")},
    **{f"frugal {how}": ("frugal", {"splitter": how}) for how in ("columns", "svd")},
}


class Model(nn.Module):
    """Tall, wide and odd matrices, which two processes split unevenly."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(9, 7)
        self.mlp = nn.Linear(7, 11, bias=False)
        self.norm = nn.LayerNorm(11)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.norm(torch.tanh(self.mlp(torch.tanh(self.attn(x))))))
        return result


def built(case: str) -> Any:
    name, fields = CASES[case]
    settings = names.build({name: fields}, "optim")
    known = {f.name for f in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{k: v for k, v in SMALL.items() if k in known})


def fresh(case: str, sharded: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model: nn.Module = Model().double()
    if sharded:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    return model, built(case)(model.named_parameters(), lr=0.02, weight_decay=0.1)


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 9, generator=generator, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


def weights(model: nn.Module, sharded: bool) -> Tensor:
    return torch.cat([(p.full_tensor() if sharded else p).detach().flatten() for p in model.parameters()])


def ends(sharded: bool) -> dict[str, Tensor]:
    """Where each optimizer ends after eight steps; sharded, also by way of a state dict after five."""
    found = {}
    for case in CASES:
        model, optimizer = fresh(case, sharded)
        descend(model, optimizer, range(8))
        found[case] = weights(model, sharded)
        if sharded:
            found[f"{case}, resumed"] = resumed(case)
    return found


def resumed(case: str) -> Tensor:
    """Five steps, and three by another optimizer that is given the state of the first."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model, optimizer = fresh(case, sharded=True)
    descend(model, optimizer, range(5))
    other, again = fresh(case, sharded=True)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, again, get_optimizer_state_dict(model, optimizer))
    descend(other, again, range(5, 8))
    return weights(other, sharded=True)


if __name__ == "__main__":
    rank, world, meet, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    torch.save(ends(sharded=True), out)
    dist.destroy_process_group()
