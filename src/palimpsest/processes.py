"""One run on several processes, as torchrun starts them: what one of them does for all, and what all must agree on.

    torchrun --nproc-per-node 2 -m palimpsest.cli run recipe.yaml

Every process holds the whole model.  They share the rows of each step and the items of each audit; what is computed
beside that is computed on all of them; files are read and written by the first.  On one process all of this is nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from palimpsest.audit import Subject
from palimpsest.sharded_subject import Sharded

__all__ = ["agreed", "count", "is_first", "joined", "made_equal", "one_after_the_other", "shared"]

T = TypeVar("T")


def count() -> int:
    """The processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return count() == 1 or dist.get_rank() == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other, and each has a card where there are cards."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cards = torch.cuda.is_available()
    if cards:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cards else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def agreed(make: Callable[[], T]) -> T:
    """What ``make`` returns on the first process, on all of them; where it fails, all of them fail alike.

    No process goes on before the first is done, so whatever it wrote is there for all.
    """
    if count() == 1:
        return make()
    said: list[tuple[T | None, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            said[0] = (make(), None)
        except Exception as error:  # whatever it is, the others must hear of it
            said[0] = (None, error)
    dist.broadcast_object_list(said, 0)
    value, failure = said[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def one_after_the_other(make: Callable[[], T]) -> T:
    """``make`` on the first process, then on the others, which find what it left behind, such as a converted model."""
    if count() == 1:
        return make()
    failure: Exception | None = None
    made: list[T] = []
    for turn in (True, False):
        if is_first() == turn and failure is None:
            try:
                made.append(make())
            except Exception as error:
                failure = error
        dist.barrier()
    if failure is not None:
        raise failure
    return made[0]


def made_equal(tensors: Iterable[Tensor]) -> None:
    """Gives all processes the first one's values, bit for bit, where rounding may have led them apart."""
    if count() == 1:
        return
    with torch.no_grad():
        for tensor in tensors:
            own = tensor.detach()
            sent = own.to(torch.uint8) if own.dtype == torch.bool else own.contiguous()
            dist.broadcast(sent, 0)
            own.copy_(sent)


def shared(subject: Subject) -> Subject:
    """``subject``, whose answers all processes work out together."""
    return subject if count() == 1 else Sharded(subject)
