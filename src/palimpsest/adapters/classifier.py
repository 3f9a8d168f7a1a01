"""Any module from tensors to class logits: images, text or tables.

Rows have ``inputs`` (a tensor or nested list of one fixed shape) and ``label`` (a class number).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from palimpsest.audit import Row
from palimpsest.reference import Columns, OtherRows, evaluating
from palimpsest.roles import Roles
from palimpsest.views import Batch, Example, Head, LabelView, Scores, Unit, View

__all__ = ["Classifier", "ClassifierSubject", "check_row"]

SAMPLED = 4096
"""Values of a row that are looked at where it is known again: all of a small image's, enough of a large one's."""
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a value -> a whole number of the same bits."""


def check_row(row: Row, place: str) -> None:
    """Raises ``ValueError`` for a row without the columns that a classifier reads."""
    if "inputs" not in row or "label" not in row:
        raise ValueError(f"{place} has the columns {sorted(map(str, row))}; a classifier needs inputs and label.")


@dataclass(frozen=True)
class Classifier:
    """``classes`` is their number C; ``features`` the path of a module whose output is the features, if any."""

    classes: int
    features: str | None = None

    def roles(self, **rows: Sequence[Row]) -> Roles:
        """``adapter.roles(forget=[…], retain=[…])``."""
        return Roles(self, rows)

    def encode(self, row: Row, place: str = "row") -> Example:
        """inputs as a float tensor, labels as a scalar."""
        check_row(row, place)
        label = int(row["label"])
        if not 0 <= label < self.classes:
            raise ValueError(
                f"{place}: the label {label} lies outside 0..{self.classes - 1}; correct it or set model.classes."
            )
        inputs = torch.as_tensor(row["inputs"])
        inputs = inputs if inputs.is_floating_point() else inputs.float()
        if not bool(torch.isfinite(inputs).all()):
            raise ValueError(f"{place}: the inputs hold a value that is not finite; correct the row or leave it out.")
        return {"inputs": inputs, "labels": torch.tensor(label)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Every column stacked to [B, ...]."""
        shapes = {tuple(e["inputs"].shape) for e in examples}
        if len(shapes) > 1:
            raise ValueError(f"The inputs have different shapes, {sorted(shapes)}; bring them to one shape first.")
        return {name: torch.stack([e[name] for e in examples]) for name in examples[0]}

    def count(self, batch: Batch, unit: Unit) -> int:
        """Rows, whatever the unit is called."""
        return len(batch["labels"])

    def views(
        self, model: nn.Module, batch: Mapping[str, Batch], roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, LabelView]:
        """One forward over the rows of all roles."""
        kept: list[Tensor] = []
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        handle = None
        if self.features is not None:
            handle = inner.get_submodule(self.features).register_forward_hook(lambda _, __, out: kept.append(out))
        try:
            logits: object = model(torch.cat([batch[r]["inputs"] for r in roles]))  # [sum of B, C]
        finally:
            if handle is not None:
                handle.remove()
        if not isinstance(logits, Tensor | Scores):
            raise ValueError(
                f"The model returned a {type(logits).__name__}; it must return a tensor of logits, [rows, classes]."
            )
        if len(logits.shape) != 2 or logits.shape[1] != self.classes:
            raise ValueError(
                f"The model returned {tuple(logits.shape)} for {self.classes} classes; it must return [rows, classes]."
            )
        sizes = [len(batch[r]["labels"]) for r in roles]
        answers = max(1, logits.shape[0] // sum(sizes))  # of each row, in succession
        features = torch.split(kept[0], sizes) if kept else [None] * len(sizes)
        counts = [answers * n for n in sizes]
        shares: Sequence[Tensor | Scores] = (
            torch.split(logits, counts) if isinstance(logits, Tensor) else logits.split(counts)
        )
        parts = zip(roles, shares, features, strict=True)
        return {role: LabelView(batch[role], own, tapped) for role, own, tapped in parts}

    def store(self, view: View, full: bool) -> list[Columns]:
        """The logits [C] of each row, and a digest of its inputs."""
        assert isinstance(view, LabelView)
        pairs = zip(_digests(view.batch["inputs"]), view.logits, strict=True)
        return [{"inputs": digest, "logits": row.clone()} for digest, row in pairs]

    def recall(self, batch: Batch, columns: Sequence[Columns], head: Head | None) -> LabelView:
        """A view of ``batch`` from stored logits; ``OtherRows`` where those are of other inputs."""
        if all("inputs" in stored for stored in columns):  # a file that was written before they were stored has none
            digests = torch.stack([stored["inputs"] for stored in columns])  # [B]
            if not torch.equal(_digests(batch["inputs"]).to(digests.device), digests):
                raise OtherRows
        return LabelView(batch, torch.stack([c["logits"] for c in columns]).to(batch["labels"].device))

    def frozen_head(self, model: nn.Module) -> Head | None:
        """Logits are stored whole, so no head is needed."""
        return None

    def subject(self, model: nn.Module) -> ClassifierSubject:
        """What an audit may ask of the model."""
        return ClassifierSubject(self, model)


def _digests(inputs: Tensor) -> Tensor:
    """[B, ...] -> [B] whole numbers by which rows are known again; of a long row, values at even distances count.

    A sum of the values' bits, each times a random number of its place, modulo 2^64: the same on every device.
    """
    flat = inputs.detach().reshape(len(inputs), -1)  # [B, D]
    few = flat[:, :: max(1, flat.shape[1] // SAMPLED)].contiguous()  # [B, S]
    bits = few.view(BITS[few.element_size()]).long()  # [B, S]
    return (bits * _multipliers(flat.shape[1], bits.shape[1]).to(bits.device)).sum(1)


@cache
def _multipliers(values: int, sampled: int) -> Tensor:
    """[S] odd numbers, others for rows of another length."""
    generator = torch.Generator().manual_seed(values)
    return torch.randint(-(2**63), 2**63 - 1, (sampled,), generator=generator) | 1


class ClassifierSubject:
    """A classifier under audit, in batches of ``rows_a_batch``."""

    def __init__(self, adapter: Classifier, model: nn.Module, *, rows_a_batch: int = 512) -> None:
        self.adapter = adapter
        self.model = model
        self.rows_a_batch = rows_a_batch
        self.told: Callable[[int, int], None] = lambda answered, asked: None

    def _views(self, rows: Sequence[Row]) -> list[LabelView]:
        device = next(self.model.parameters()).device
        views = []
        for first in range(0, len(rows), self.rows_a_batch):
            chunk = rows[first : first + self.rows_a_batch]
            batch = self.adapter.collate([self.adapter.encode(r, f"row {first + i}") for i, r in enumerate(chunk, 1)])
            with evaluating(self.model):
                views.append(
                    self.adapter.views(self.model, {"": {k: v.to(device) for k, v in batch.items()}}, [""])[""]
                )
            self.told(first + len(chunk), len(rows))
        return views

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        """The log-probability of each row's class, [1] each."""
        return [value.view(1) for view in self._views(rows) for value in view.logp.detach().float().cpu()]

    def matches(self, rows: Sequence[Row]) -> list[Tensor]:
        """Whether each row's class is the most likely one, [1] each."""
        return [same.view(1) for view in self._views(rows) for same in (view.logits.argmax(-1) == view.labels).cpu()]

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """The features, [N, D]."""
        return torch.cat([view.features.detach().flatten(1).float().cpu() for view in self._views(rows)])

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """A classifier writes nothing."""
        raise ValueError("This audit asks for text, which a classifier does not write; use accuracy or probability.")

    def sample(
        self, rows: Sequence[Row], max_new_tokens: int, *, count: int, seeds: Sequence[int], temperature: float = 1.0
    ) -> list[list[str]]:
        """A classifier writes nothing."""
        raise ValueError("This audit asks for text, which a classifier does not write; use accuracy or probability.")

    def truncate(self, texts: Sequence[str], tokens: int) -> list[str]:
        """A classifier reads no text."""
        raise ValueError("This audit asks for text, which a classifier does not read; use accuracy or probability.")

    def predict(self, rows: Sequence[Row]) -> Tensor:
        """Class log-probabilities, [N, C]."""
        return torch.cat([view.log_probs.detach().float().cpu() for view in self._views(rows)])
