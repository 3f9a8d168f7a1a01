"""A head whose rows are spread over the processes of a group: each holds some entries, in the order of the ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Shards"]


@dataclass(frozen=True)
class Shards:
    """This process holds the entries from ``first`` on; the group holds ``entries`` together."""

    group: dist.ProcessGroup
    first: int
    entries: int

    @classmethod
    def of(cls, group: dist.ProcessGroup, weight: Tensor) -> Shards:
        """Asks every process how many rows it holds."""
        own = torch.tensor([len(weight)], device=weight.device)
        sizes = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(sizes, own, group=group)
        counts = [int(size) for size in sizes]
        return cls(group, sum(counts[: dist.get_rank(group)]), sum(counts))

    @property
    def count(self) -> int:
        """Number of processes."""
        return dist.get_world_size(self.group)

    def joined(self, log_sum: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The log-sum-exp over all entries, and each target's logit, for which all processes but one give 0."""
        highest = log_sum.clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self.group)
        highest.clamp_(min=torch.finfo(highest.dtype).min)  # -inf where every entry is masked
        both = torch.stack(((log_sum - highest).exp(), chosen))
        dist.all_reduce(both, group=self.group)
        return highest + both[0].log(), both[1]

    def add(self, values: Tensor) -> None:
        """The sum over the processes, in place."""
        dist.all_reduce(values, group=self.group)
