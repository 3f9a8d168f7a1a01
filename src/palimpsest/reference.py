"""Frozen companions of a model that is being trained: the reference model, and teachers.

    Copy(model)                    a frozen deep copy: any model, the memory of one more
    AdapterOff(model)              the model under its own peft adapter: no memory, one more forward
    cache(roles, model, ("forget",))   what the reference said, stored once: neither
    SlowAverage(model, decay=0.999)    an average that follows the model: the memory of what is trained
    Frozen(other)                  a module you have: a teacher

All of them run without gradients and in eval mode, so that dropout cannot make the reference differ from itself.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from palimpsest.checkpoint import read_tensors, write_tensors
from palimpsest.roles import RoleBatch, Roles
from palimpsest.views import Adapter, Batch, Head, View

__all__ = [
    "AdapterOff",
    "Cached",
    "Columns",
    "Copy",
    "Frozen",
    "OtherRows",
    "Reference",
    "SlowAverage",
    "cache",
    "evaluating",
    "fingerprint",
]

Columns = Mapping[str, Tensor]
"""What was stored for one row, and by what it is known again.

Of a language model ``input_ids`` [T], ``logp`` [T-1] and, for whole distributions, ``hidden`` [T, D]; of a classifier
``inputs``, a digest of them, and ``logits`` [C].
"""
SAMPLED = 64
"""Values of each weight that a fingerprint looks at."""


class OtherRows(ValueError):
    """Stored columns are not of the rows of a batch."""


class Reference(Protocol):
    """Anything that can see a batch beside the model in training."""

    def views(
        self, model: nn.Module, batch: RoleBatch, roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, View]:
        """The reference's views of ``roles``; ``model`` is the one in training, ``needs`` what its pass must record."""
        ...

    def after_step(self, model: nn.Module) -> None:
        """Called after every optimizer step."""
        ...


class CachingAdapter(Adapter, Protocol):
    """An adapter whose views can be stored row by row."""

    def store(self, view: View, full: bool) -> list[Columns]:
        """One row's columns each, without padding; ``full`` keeps what whole distributions need."""
        ...

    def recall(self, batch: Batch, columns: Sequence[Columns], head: Head | None) -> View:
        """A view of ``batch`` from stored columns. Raises ``OtherRows`` where they are of other rows."""
        ...

    def frozen_head(self, model: nn.Module) -> Head | None:
        """A copy of the output layer as it is now, with which stored activations become distributions again."""
        ...


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode and no gradients inside; every submodule's mode as it was outside."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


class Frozen:
    """A module as it is: never trained, never in train mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)

    def views(
        self, model: nn.Module, batch: RoleBatch, roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, View]:
        """One forward of the frozen module."""
        with torch.no_grad():
            return batch.adapter.views(self.module, batch, roles, needs)

    def after_step(self, model: nn.Module) -> None:
        """Nothing moves."""


class Copy(Frozen):
    """A frozen deep copy of the model as it is now."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(copy.deepcopy(model))


class SlowAverage(Frozen):
    """theta_slow <- decay * theta_slow + (1 - decay) * theta after every step, for the weights that are trained.

    What is frozen is shared with the model and not copied: of a model with an adapter only the adapter is held twice.
    ``warm`` takes the decay min(1 - 1 / (k + 1), decay) in step k = 1, 2, ..., a plain mean at first; k counts on when
    the same average is given to a later ``fit``.  ``copy_to`` puts the average in the model's place.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warm: bool = False) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"The decay of a slow average lies in [0, 1], not {decay}.")
        shared: dict[int, object] = {id(p): p for p in model.parameters() if not p.requires_grad}
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        if not names:
            raise ValueError("A slow average follows what is trained, and no parameter is; unfreeze some first.")
        super().__init__(copy.deepcopy(model, shared))
        self.decay, self.warm = decay, warm
        self.state = _Averages({name: self.module.get_parameter(name) for name in names})
        """What a checkpoint keeps: the averages, by their names in the model, and the number of steps."""

    def after_step(self, model: nn.Module) -> None:
        """Moves every average towards the weight of its own name."""
        self.state.steps += 1
        steps = int(self.state.steps)
        decay = min(1 - 1 / (steps + 1), self.decay) if self.warm else self.decay
        slow, fast = self._pairs(model)
        with torch.no_grad():
            torch._foreach_lerp_(slow, fast, 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """The averages become the model's weights; its frozen ones are the same already."""
        slow, fast = self._pairs(model)
        with torch.no_grad():
            torch._foreach_copy_(fast, slow)

    def _pairs(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The averages, and the model's weights of the same names."""
        own = {name: p.detach() for name, p in model.named_parameters()}
        missing = [name for name in self.state.averages if name not in own]
        if missing:
            raise ValueError(
                f"The model has no weight {missing[0]!r}, which the slow average follows; make the average of this "
                "model, as it is trained."
            )
        return list(self.state.averages.values()), [own[name] for name in self.state.averages]


class _Averages(nn.Module):
    """The averages of a ``SlowAverage`` by name, and how often they were moved, as a state to be saved."""

    steps: Tensor

    def __init__(self, averages: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.averages = {name: value.detach() for name, value in averages.items()}
        for name, value in self.averages.items():
            self.register_buffer(name.replace(".", "/"), value)  # the same memory; a buffer's name has no dot
        self.register_buffer("steps", torch.tensor(0))


class AdapterOff:
    """The model without its peft adapter.

    Raises ``ValueError`` when the adapter changes the model now: its initialization then also rewrote the base
    (FILA, PiSSA and their kin), and the model without adapter is no longer the model before training.
    """

    def __init__(self, model: nn.Module) -> None:
        from peft import PeftModel

        if not isinstance(model, PeftModel):
            raise ValueError("A reference with the adapter off needs a peft model; use Copy(model) for any other.")
        moved = [n for n, p in model.named_parameters() if "lora_B" in n and bool(p.detach().any())]
        if moved:
            raise ValueError(
                f"The adapter is not the identity ({moved[0]} is not zero), so the model without it is not the model "
                "before training; use Copy(model), or cache() before the edit."
            )
        self.model = model

    def views(
        self, model: nn.Module, batch: RoleBatch, roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, View]:
        """One forward with the adapter disabled."""
        with evaluating(self.model), self.model.disable_adapter():
            return batch.adapter.views(self.model, batch, roles, needs)

    def after_step(self, model: nn.Module) -> None:
        """The base never moves."""


def fingerprint(model: nn.Module) -> str:
    """64 hexadecimal digits of a model's weights: their names, shapes, and a few values of each at even distances.

    It takes a moment and no second model.  An adapter that is the identity (lora_B is 0) leaves the digits as they are,
    and so does DDP; one changed weight among many may go unseen, training does not.
    """
    from torch.distributed.tensor import DTensor  # slow to import, and needed here only

    bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    found = {n.removeprefix("base_model.model.").replace(".base_layer", ""): v for n, v in bare.state_dict().items()}
    if not any("lora_B" in name and bool(value.any()) for name, value in found.items()):
        found = {name: value for name, value in found.items() if "lora_" not in name}
    digest = hashlib.sha256()
    for name, value in sorted(found.items()):
        flat = (value.full_tensor() if isinstance(value, DTensor) else value).detach().flatten()
        few = flat[:: max(1, len(flat) // SAMPLED)].cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {few.dtype}".encode() + few.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Cached:
    """What a reference said about every row of some roles, by (role, index).

    ``model`` is the ``fingerprint`` of the model that said it, empty where that is not known.
    """

    def __init__(self, columns: Mapping[str, Sequence[Columns]], head: Head | None = None, model: str = "") -> None:
        self.columns = {role: list(rows) for role, rows in columns.items()}
        self.head = head
        self.model = model

    def views(
        self, model: nn.Module, batch: RoleBatch, roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, View]:
        """Views from the stored columns; no forward pass."""
        adapter: CachingAdapter = batch.adapter  # type: ignore[assignment]
        if needs:
            raise ValueError(f"Stored columns hold no activation such as {min(needs)!r}; use reference: copy.")
        found = {}
        for role in roles:
            if role not in self.columns:
                raise ValueError(
                    f"The reference was cached for {sorted(self.columns)}, not for {role!r}; cache that role too."
                )
            try:
                found[role] = adapter.recall(batch[role], self._rows(role, batch[role]["index"]), self.head)
            except OtherRows:
                raise ValueError(
                    f"The reference was cached for other rows than those of {role!r}, or with another tokenizer; cache "
                    "these."
                ) from None
        return found

    def _rows(self, role: str, index: Tensor) -> list[Columns]:
        """The columns of some rows by number; ``OtherRows`` where there are not so many."""
        stored, wanted = self.columns[role], index.tolist()
        if max(wanted) >= len(stored):
            raise OtherRows
        return [stored[i] for i in wanted]

    def after_step(self, model: nn.Module) -> None:
        """Stored values do not move."""

    def save(self, path: Path) -> None:
        """Writes the columns as safetensors, whole or not at all."""
        flat = {f"{r}/{i}/{k}": v for r, rows in self.columns.items() for i, c in enumerate(rows) for k, v in c.items()}
        if self.head is not None:
            flat["head/weight"] = self.head.weight
            if self.head.bias is not None:
                flat["head/bias"] = self.head.bias
        constants = {} if self.head is None else {"softcap": self.head.softcap, "scale": self.head.scale}
        write_tensors(path, flat, constants | {"model": self.model})

    @staticmethod
    def load(path: Path, model: nn.Module | None = None) -> Cached:
        """Reads what ``save`` wrote. Raises ``ValueError`` where it is not what ``model``, as it is now, said.

        Give the model before it is trained; afterwards it is another one.
        """
        flat, constants = read_tensors(path)
        of = constants.get("model", "")
        if model is not None and of and of != fingerprint(model):
            raise ValueError(
                f"{path} holds what another model said, or this one before it was trained; delete the file and cache "
                "again, or give the model that it was made with."
            )
        weight, bias = flat.pop("head/weight", None), flat.pop("head/bias", None)
        columns: dict[str, dict[int, dict[str, Tensor]]] = {}
        for key, value in flat.items():
            role, index, name = key.rsplit("/", 2)
            columns.setdefault(role, {}).setdefault(int(index), {})[name] = value
        head = None if weight is None else Head(weight, bias, constants["softcap"], constants["scale"])
        return Cached({role: [rows[i] for i in range(len(rows))] for role, rows in columns.items()}, head, of)


def cache(
    roles: Roles,
    model: nn.Module,
    names: Sequence[str],
    *,
    full: bool = False,
    size: int = 16,
    autocast: torch.dtype | None = None,
) -> Cached:
    """One pass over the named roles with the model as it is now.

    ``full`` also keeps what enters the head, so that whole distributions can be made again (KL terms); without
    it only the log-probabilities of the targets are kept.  ``autocast`` is the precision in which the model will be
    trained: where the two differ, a model that has not moved yet seems to.
    """
    adapter: CachingAdapter = roles.adapter  # type: ignore[assignment]
    columns: dict[str, list[Columns]] = {}
    device = next(model.parameters()).device
    for role in names:
        if role in roles.answers:
            raise ValueError(
                f"The role {role!r} is drawn afresh in every round, so it cannot be cached; use reference: copy."
            )
        columns[role] = []
        for batch in roles.in_order(role, size):
            with evaluating(model), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                view = adapter.views(model, batch.to(device), [role])[role]
                columns[role].extend(adapter.store(view, full))
    return Cached(columns, adapter.frozen_head(model) if full else None, fingerprint(model))
