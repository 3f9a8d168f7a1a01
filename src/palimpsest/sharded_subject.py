"""One subject on several processes: each answers for its share of the rows, and all of them get the whole.

    scores = audit(Sharded(adapter.subject(model)), data, "forget")     # the same on 1 and on 2 processes

The model must be whole on every process (a plain module or DDP), since the processes ask it different questions at the
same time; a model split by FSDP answers only when all processes ask together, and is audited without this wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from palimpsest.audit import Row, Subject

__all__ = ["Sharded"]

T = TypeVar("T")
Item = TypeVar("Item")


class Sharded:
    """``subject``'s answers, worked out by all processes of the default group; on one process, simply the subject's."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row, log-probabilities of the scored targets, [T_i]."""
        return _shared(rows, self.subject.logp)

    def matches(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per row, whether each scored target is the most likely one, [T_i]."""
        return _shared(rows, self.subject.matches)

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """Features, [N, D]."""
        return torch.stack(_shared(rows, lambda share: list(self.subject.embed(share))))

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Greedy continuations."""
        return _shared(rows, lambda share: self.subject.generate(share, max_new_tokens))

    def sample(
        self, rows: Sequence[Row], max_new_tokens: int, *, count: int, seeds: Sequence[int], temperature: float = 1.0
    ) -> list[list[str]]:
        """Random continuations; a row's own seed makes them the same on whichever process."""

        def ask(share: Sequence[tuple[Row, int]]) -> list[list[str]]:
            own, their_seeds = [row for row, _ in share], [seed for _, seed in share]
            return self.subject.sample(own, max_new_tokens, count=count, seeds=their_seeds, temperature=temperature)

        return _shared(list(zip(rows, seeds, strict=True)), ask)

    def truncate(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The beginnings of texts; every process works out all of them, since no model is asked."""
        return self.subject.truncate(texts, tokens)

    def predict(self, rows: Sequence[Row]) -> Tensor:
        """Class log-probabilities, [N, C]."""
        return torch.stack(_shared(rows, lambda share: list(self.subject.predict(share))))


def _shared(rows: Sequence[Item], ask: Callable[[Sequence[Item]], list[T]]) -> list[T]:
    """Answers in the order of ``rows``; process r asks for rows r, r + world, …

    A process whose share fails still meets the others, so that all of them raise and none waits forever.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1:
        return ask(rows)
    rank = dist.get_rank()
    share = [rows[i] for i in range(rank, len(rows), world)]
    answers: list[T] = []
    error: Exception | None = None
    try:
        answers = ask(share) if share else []
    except Exception as caught:  # whatever it is, the other processes must hear of it
        error = caught
    gathered: list[tuple[list[T], str | None]] = [([], None)] * world
    dist.all_gather_object(gathered, (answers, None if error is None else f"{type(error).__name__}: {error}"))
    for other, (_, failure) in enumerate(gathered):
        if failure is not None:
            counts = f"it counts its own rows: number n is row {other + 1} + {world} (n - 1)"
            raise RuntimeError(f"The audit failed on process {other} of {world} ({counts}): {failure}") from error
    return [gathered[i % world][0][i // world] for i in range(len(rows))]
