"""The most memory that tensors take at once, followed operation by operation: on a CPU no allocator counts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LiveBytes"]


@dataclass
class _Life:
    storage: StorageWeakRef
    address: int
    size: int
    born: int
    died: int | None = None


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation inside the context returns, from its first sight to its release."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()  # storages from outside
        self.lives: list[_Life] = []
        self.clock = 0

    def ignore(self, *tensors: Tensor) -> None:
        self.known.update(t.untyped_storage().data_ptr() for t in tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.clock += 1
        for life in self.lives:
            if life.died is None and life.storage.expired():  # type: ignore[no-untyped-call]
                life.died = self.clock
        alive = {life.address for life in self.lives if life.died is None} | self.known
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in alive | {0}:
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self.lives.append(_Life(reference, storage.data_ptr(), storage.nbytes(), self.clock))
        return result

    def peak(self, *besides: Tensor) -> int:
        """The most bytes alive at once, not counting the storages of ``besides`` (which must be alive)."""
        outside = {t.untyped_storage().data_ptr() for t in besides}
        counted = [life for life in self.lives if life.died is not None or life.address not in outside]
        change = [0] * (self.clock + 2)
        for life in counted:
            change[life.born] += life.size
            change[self.clock + 1 if life.died is None else life.died] -= life.size
        total = highest = 0
        for step in change:
            total += step
            highest = max(highest, total)
        return highest
