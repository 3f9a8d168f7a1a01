"""One optimizer step of an objective, apart from any loop: the part that ``loop.py`` and ``hf.py`` share.

step = Step(objective, model, reference=Copy(model))
counts = step.count(batches, number)              # items of the window of step ``number``, over all processes
for batch in batches: step.backward(batch, counts, progress, micro=len(batches))
step.gradients()                                  # merged, reduced, masked; raises if a term is not finite
step.clip(1.0)
optimizer.step(); step.after(optimizer)
step.parts, step.tokens                           # the window's term values; tokens since the start
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from palimpsest.combine import Combine, Sum
from palimpsest.layer import StepsItself
from palimpsest.mask import Mask, Masked
from palimpsest.objective import Counts, Losses, Term, Total, count_items, evaluate, prepare
from palimpsest.pairing import check_pairs
from palimpsest.reference import Reference, SlowAverage
from palimpsest.roles import RoleBatch, Roles, seeded

__all__ = ["NotFinite", "States", "Step"]

States = Mapping[str, Mapping[str, Tensor]]
"""Method -> the ``state_dict`` of what its objective prepared."""


class NotFinite(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names the term and the step."""


def _wrapped(model: nn.Module) -> bool:
    """Whether a wrapper (DDP, FSDP2) reduces the gradients, as a mean over processes."""
    if isinstance(model, nn.DataParallel):
        raise ValueError("DataParallel is not supported; start one process per device and use DistributedDataParallel.")
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # slow to import, and needed here only

    if isinstance(model, FullyShardedDataParallel):
        raise ValueError("FSDP version 1 is not supported; shard the model with fully_shard (fsdp_version: 2).")
    return isinstance(model, (nn.parallel.DistributedDataParallel, FSDPModule))


def _whole(norm: Tensor) -> float:
    """A norm as a number, also where FSDP left its parts on different processes."""
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.tensor import DTensor

        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return float(norm)


def _tokens(batch: RoleBatch) -> int:
    """Tokens of text, padding apart; rows where the batch is not text."""
    masks = [b.get("attention_mask") for b in batch.values()]
    rows = [len(next(iter(b.values()))) for b in batch.values()]
    return sum(n if m is None else int(m.sum()) for n, m in zip(rows, masks))


@dataclass
class Step:
    """An objective at work on a model.  ``states`` are what the objectives prepared, by term name; of several processes
    each draws its own dropout, by ``seed``."""

    objective: Total
    model: nn.Module
    reference: Reference | None = None
    teacher: Reference | None = None
    combine: Combine = field(default_factory=Sum)
    mask: Mask | None = None
    states: dict[str, nn.Module | None] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.objective, Term):
            self.objective = Total((self.objective,))
        self.groups = self.combine.groups(self.objective)
        self.processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self._place = (-1, 0)  # the step's number and the micro-batch's in it
        self.wrap(self.model)
        self._check_layers()
        still = frozenset() if self.mask is None else self.mask.still
        kind = nn.modules.batchnorm._BatchNorm
        self._normalizing = {n: m for n, m in self.bare.named_modules() if isinstance(m, kind) and n not in still}
        self._refuse_batch_statistics()
        self.masked = None if self.mask is None else Masked(self.mask, self.bare)
        self.parts: dict[str, float] = {}
        self.tokens = 0
        self._window: dict[str, Tensor] = {}
        self._window_tokens = 0
        self._gradients: list[list[Tensor]] = []

    def wrap(self, model: nn.Module) -> None:
        """Takes over the model as a trainer has wrapped it since this step was made."""
        self.model = model
        self.wrapped = _wrapped(model)
        if len(self.groups) > 1 and self.wrapped:
            raise ValueError(
                f"{type(self.combine).__name__} needs the gradient of each group of terms apart, which DDP and FSDP do "
                "not give; train on one process, or combine with Sum()."
            )
        for term in self.objective.terms:
            if term.objective.couples and not term.objective.gathers and self.processes > 1:
                raise ValueError(
                    f"{term.name} compares the rows of a batch with each other, and with several processes no one "
                    "holds them all; train on one process."
                )
        if self.mask is not None and self.sharded:
            raise ValueError("A mask freezes single weights, which FSDP splits; train on one process or with DDP.")

    def _check_layers(self) -> None:
        """Refuses what would be asked for and not done: it does not reach a layer that moves itself."""
        moves = next((type(m).__name__ for m in self.bare.modules() if isinstance(m, StepsItself)), None)
        beside = {
            "a mask": self.mask is not None,
            type(self.combine).__name__: len(self.groups) > 1,
            "a slow average": any(isinstance(c, SlowAverage) for c in (self.reference, self.teacher)),
        }
        for what in (w for w, there in beside.items() if there and moves is not None):
            raise ValueError(f"{moves} moves its own weights, which {what} would not reach; leave one of the two away.")

    def _refuse_batch_statistics(self, micro: int = 1) -> None:
        """A layer that normalizes over a part of a batch trains another model than one that is given all of it."""
        for name, module in self._normalizing.items():
            told = f"The module {name!r} ({type(module).__name__})"
            if micro > 1:
                raise ValueError(
                    f"{told} normalizes over the rows of a batch, which micro-batches would take apart; set "
                    "train.accumulation to 1."
                )
            if self.processes > 1 and not isinstance(module, nn.SyncBatchNorm):
                raise ValueError(
                    f"{told} normalizes over the rows of a batch, and with several processes no one holds them all; "
                    "convert it with torch.nn.SyncBatchNorm.convert_sync_batchnorm, or train on one process."
                )

    @property
    def bare(self) -> nn.Module:
        """The model without DDP, so that weights have the names that masks, penalties and checkpoints know."""
        return self.model.module if isinstance(self.model, nn.parallel.DistributedDataParallel) else self.model

    @property
    def sharded(self) -> bool:
        """Whether FSDP splits the weights over processes."""
        return self.wrapped and self.bare is self.model

    @property
    def modules(self) -> dict[str, nn.Module | None]:
        """All that moves beside the model and must be saved with it: the objectives' states and slow averages."""
        companions = {"companion:reference": self.reference, "companion:teacher": self.teacher}
        slow = {name: c.state for name, c in companions.items() if isinstance(c, SlowAverage)}
        return {**self.states, **slow}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def prepare(self, roles: Roles, previous: States | None = None) -> None:
        """Lets every objective look at the model and its data before the first step, and at its own last stage."""
        check_pairs(self.objective, roles.rows, roles.answers)
        if any(term.name not in self.states for term in self.objective.terms):
            self.states = prepare(self.objective, self.bare, roles, previous) | self.states

    @property
    def left(self) -> States:
        """What the objectives' states hold now, by method: what ``prepare`` of the next stage is given."""
        named = ((method, self.states.get(name)) for name, method in self.objective.methods.items())
        return {m: {k: v.detach().clone() for k, v in s.state_dict().items()} for m, s in named if s is not None}

    def count(self, batches: Sequence[RoleBatch], number: int | None = None) -> Counts:
        """Items of the window of the step with that number (0 the first; left out, the next), over all processes."""
        self._place = (self._place[0] + 1 if number is None else number, 0)
        self._refuse_batch_statistics(len(batches))
        coupled = next((t.name for t in self.objective.terms if t.objective.couples), None)
        if coupled is not None and len(batches) > 1:
            raise ValueError(
                f"{coupled} compares the rows of a batch with each other, which micro-batches would take apart; "
                "set train.accumulation to 1."
            )
        counts = count_items(self.objective, batches)
        tokens = sum(map(_tokens, batches))
        if self.processes > 1:
            keys = sorted(k for k in counts if k[1] != "parameter")
            device = next(self.model.parameters()).device
            values = torch.tensor([*(counts[k] for k in keys), tokens], dtype=torch.float64, device=device)
            dist.all_reduce(values)
            *found, tokens = values.tolist()
            counts.update(dict(zip(keys, found)))
        self._window_tokens = int(tokens)
        return counts

    def backward(
        self,
        batch: RoleBatch,
        counts: Counts,
        progress: float,
        micro: int = 1,
        differentiate: Callable[[Tensor], None] = Tensor.backward,
    ) -> Losses:
        """Adds one micro-batch's gradient; ``differentiate`` calls ``backward`` on the loss (a trainer has its own)."""
        if self.masked is not None:
            self.masked.before_forward()
        device = next(self.model.parameters()).device
        context = (
            contextlib.nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)
        )
        with context, self._own_draws(device):
            losses = evaluate(
                self.objective,
                self.model,
                batch,
                reference=self.reference,
                teacher=self.teacher,
                counts=counts,
                progress=progress,
                states=self.states,
                share=1.0 / (micro * self.processes),
            )
        for name, value in losses.parts.items():  # kept on the device: reading them here would make a GPU wait
            self._window[name] = self._window[name] + value if name in self._window else value
        if len(self.groups) == 1:
            # Wrappers average over processes; the division was already done, so the average is undone here.
            differentiate(losses.total * (self.processes if self.wrapped else 1))
        else:
            self._collect(losses)
        return losses

    @contextlib.contextmanager
    def _own_draws(self, device: torch.device) -> Iterator[None]:
        """Inside, the model of each of several processes draws (dropout) what no other does.

        It follows from the seed, the process and the place in the stage, so that a run that goes on draws the same
        again, though only the first process keeps its generators.  Outside all processes draw alike.
        """
        number, micro = self._place
        self._place = (number, micro + 1)
        if self.processes == 1:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeded(self.seed, "draws", number, micro, dist.get_rank()))
            yield

    def _close_window(self) -> None:
        """Reads the window's term values, summed over processes, so that all processes stop at a bad one together."""
        names = list(self._window)
        exact = self.processes > 1 or any(v.dtype == torch.float64 for v in self._window.values())
        values = torch.stack([v.to(torch.float64 if exact else torch.float32) for v in self._window.values()])
        if self.processes > 1:
            dist.all_reduce(values)
        self._window = {}
        self.parts = dict(zip(names, values.tolist()))
        for name, value in self.parts.items():
            if not math.isfinite(value):
                self._gradients = []
                raise NotFinite(f"the term {name} became {value}")
        self.tokens += self._window_tokens

    def _collect(self, losses: Losses) -> None:
        """One backward pass a group, kept apart until the window ends."""
        parameters = self.parameters
        for i, names in enumerate(self.groups):
            total = torch.stack([losses.terms[n] for n in names]).sum()
            last = i == len(self.groups) - 1
            found = torch.autograd.grad(total, parameters, retain_graph=not last, allow_unused=True)
            gradients = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters)]
            if i < len(self._gradients):
                torch._foreach_add_(self._gradients[i], gradients)
            else:
                self._gradients.append(gradients)

    def gradients(self) -> None:
        """After the last micro-batch: the gradient to step along, in ``.grad`` of every trainable parameter.

        Raises ``NotFinite``, on every process, when a term of the window is not finite on any.
        """
        self._close_window()
        parameters = self.parameters
        if len(self.groups) > 1:
            if self.processes > 1:
                for gradients in self._gradients:
                    _sum_over_processes(gradients)
            for parameter, gradient in zip(parameters, self.combine.merge(self._gradients)):
                parameter.grad = gradient
            self._gradients = []
        elif self.processes > 1 and not self.wrapped:
            for parameter in parameters:
                if parameter.grad is None:  # every process must bring the same tensors
                    parameter.grad = torch.zeros_like(parameter)
            _sum_over_processes([p.grad for p in parameters if p.grad is not None])
        if self.masked is not None:
            self.masked.before_step()

    def clip(self, limit: float | None) -> float:
        """Scales the gradients down to the norm ``limit`` (None: as they are) and returns the norm they had.

        Raises ``NotFinite`` when that is not a number.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = _whole(torch.nn.utils.get_total_norm(gradients, foreach=True))
        if not math.isfinite(norm):
            worst = max(self.parts, key=lambda name: abs(self.parts[name]), default="")
            raise NotFinite(f"the gradient became {norm} (largest term: {worst})")
        if limit is not None and norm > limit:
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_ does
        return norm

    def after(self, optimizer: torch.optim.Optimizer, pace: float = 1.0) -> None:
        """After the optimizer's step: layers that move themselves, frozen entries back in place, averages moved.

        ``pace`` is the share of the stage's learning rate at which the optimizer's step was taken.
        """
        for module in self.bare.modules():
            if isinstance(module, StepsItself):
                module.apply_update(pace)
        if self.masked is not None:
            self.masked.after_step(optimizer)
        for companion in (self.reference, self.teacher):
            if companion is not None:
                companion.after_step(self.bare)
        for term in self.objective.terms:
            term.objective.after_step(self.bare, self.states.get(term.name))


def _sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Sums tensors over processes in place, in one message."""
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    first = 0
    for tensor in tensors:
        tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
        first += tensor.numel()
