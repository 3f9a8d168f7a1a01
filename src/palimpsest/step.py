"""One optimizer step of an objective, apart from any loop: the part that ``loop.py`` and ``hf.py`` share.

    step = Step(objective, model, reference=Copy(model))
    counts = step.count(batches)                      # items of the whole window, over all processes
    for batch in batches: step.backward(batch, counts, progress, micro=len(batches))
    step.gradients()                                  # merged, reduced, masked: ready for clipping
    optimizer.step(); step.after(optimizer)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from palimpsest.combine import Combine, Sum
from palimpsest.mask import Mask, Masked
from palimpsest.objective import Counts, Losses, Term, Total, count_items, evaluate
from palimpsest.reference import Reference
from palimpsest.roles import RoleBatch, Roles

__all__ = ["NotFinite", "Step"]


class NotFinite(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names the term and the step."""


def _wrapped(model: nn.Module) -> bool:
    """Whether a wrapper (DDP, FSDP2) reduces the gradients, as a mean over processes."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, (nn.parallel.DistributedDataParallel, FSDPModule))


@dataclass
class Step:
    """An objective at work on a model.  ``states`` are what the objectives prepared, by term name."""

    objective: Total
    model: nn.Module
    reference: Reference | None = None
    teacher: Reference | None = None
    combine: Combine = field(default_factory=Sum)
    mask: Mask | None = None
    states: dict[str, nn.Module | None] = field(default_factory=dict)
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if isinstance(self.objective, Term):
            self.objective = Total((self.objective,))
        self.groups = self.combine.groups(self.objective)
        self.processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.wrapped = _wrapped(self.model)
        if len(self.groups) > 1 and self.wrapped:
            raise ValueError(
                f"{type(self.combine).__name__} needs the gradient of each group of terms apart, which DDP and FSDP do "
                "not give; train on one process, or combine with Sum()."
            )
        if self.mask is not None and self.wrapped and not isinstance(self.model, nn.parallel.DistributedDataParallel):
            raise ValueError("A mask freezes single weights, which FSDP splits over processes; train on one process or with DDP.")
        self.masked = None if self.mask is None else Masked(self.mask, self.model)
        self._gradients: list[list[Tensor]] = []

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def prepare(self, roles: Roles) -> None:
        """Lets every objective look at the model and its data before the first step."""
        for term in self.objective.terms:
            if term.name not in self.states:
                self.states[term.name] = term.objective.prepare(self.model, roles, term.role[0])

    def count(self, batches: Sequence[RoleBatch]) -> Counts:
        """Items of the window, summed over all processes."""
        counts = count_items(self.objective, batches)
        if self.processes > 1:
            keys = sorted(k for k in counts if k[1] != "parameter")
            device = next(self.model.parameters()).device
            values = torch.tensor([counts[k] for k in keys], dtype=torch.float64, device=device)
            dist.all_reduce(values)
            counts.update(dict(zip(keys, values.tolist())))
        return counts

    def backward(self, batch: RoleBatch, counts: Counts, progress: float, micro: int = 1) -> Losses:
        """Adds one micro-batch's gradient. Raises ``NotFinite`` before any gradient of a bad loss is taken."""
        device = next(self.model.parameters()).device
        context = (
            contextlib.nullcontext()
            if self.autocast is None
            else torch.autocast(device.type, dtype=self.autocast)
        )
        with context:
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
        for name, value in losses.parts.items():
            if not bool(torch.isfinite(value)):
                raise NotFinite(f"the term {name} became {float(value)}")
        if len(self.groups) == 1:
            # Wrappers average over processes; the division was already done, so the average is undone here.
            (losses.total * (self.processes if self.wrapped else 1)).backward()
        else:
            self._collect(losses)
        return losses

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
        """After the last micro-batch: the gradient to step along, in ``.grad`` of every trainable parameter."""
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

    def after(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's step: frozen entries back in place, averages moved, gradients cleared."""
        if self.masked is not None:
            self.masked.after_step(optimizer)
        for companion in (self.reference, self.teacher):
            if companion is not None:
                companion.after_step(self.model)
        for term in self.objective.terms:
            term.objective.after_step(self.model, self.states.get(term.name))


def _sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Sums tensors over processes in place, in one message."""
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    first = 0
    for tensor in tensors:
        tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
        first += tensor.numel()


def add_parts(into: dict[str, float], parts: Mapping[str, Tensor]) -> None:
    """Adds a micro-batch's unweighted term values to those of the window."""
    for name, value in parts.items():
        into[name] = into.get(name, 0.0) + float(value)
