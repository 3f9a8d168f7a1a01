"""Another loss, with each sequence weighted by how large its own loss is among those of the batch.

    L = sum_i w_i l_i,    w_i = e^(f(h_i) / r) / sum_j e^(f(h_j) / r) held constant
    h_i = (2 l_i - max l - min l) / (max l - min l), in [-1, 1]

    linupper    f = min(h + 1, 1)     less for what is known, the same for all above the middle
    quadratic   f = 1 - h^2           most for the middle
    extremes    f = |h|               most for both ends
    linear      f = (h + 1) / 2       the more, the larger

The batch is that of all processes.  l_i is the mean over a sequence's items of the loss inside.  f lies in [0, 1], so
that no weight is more than e^(1/r) times another.

Paper: Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining (Sow et al., 2025),
    arXiv 2502.06733.
Code: sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025 (src/trainer.py).
Tags: optimize, pre-training, loss, data-selection, language-model, classifier.
Needs: what the objective inside needs, whose values must be losses of single rows; batches of eight rows or more.
Differs: uniform weights give the mean over sequences, as the release describes it; its trainer also multiplies by each
    sequence's share of the tokens, which ``length_weighting`` does here over all processes instead of within each. The
    first ``burn_in`` steps have uniform weights, where the release sets r to 100; ``annealing``, in which 1 / r rises
    in a straight line, is ours. A sequence without a scored token is left out instead of making every weight nan.
    ``linear`` is only in the code, where it is called upper. Micro-batches are refused, since the weights are those of
    a whole batch.
See: ``cross_entropy`` (the usual objective inside), ``confidence_limited`` (weights by a sequence's own probability).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from palimpsest.objective import Objective, Pairing
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.views import Unit

if TYPE_CHECKING:
    from palimpsest.loop import Training
    from palimpsest.roles import Roles

__all__ = ["METHOD", "Reweighted", "loss_weights", "shape", "shifted"]

Strategy = Literal["linupper", "quadratic", "extremes", "linear"]
SMALLEST_RANGE = 1e-6
"""Losses that differ by less count as almost equal."""


def _over_processes(value: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """A detached value summed over all processes, or the largest."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
    return value


def shifted(losses: Tensor, counts: Tensor) -> Tensor:
    """h [B] from losses [B], of which those where ``counts`` [B] is false are left out."""
    ends = torch.where(counts, torch.stack([losses, -losses]), -torch.inf).amax(1)  # the smallest negated
    high, low = _over_processes(ends, "max") * ends.new_tensor([1.0, -1.0])
    middle, reach = (high + low) / 2, ((high - low) / 2).clamp_min(SMALLEST_RANGE / 2)
    h: Tensor = (losses - middle) / reach
    return h


def shape(h: Tensor, strategy: Strategy) -> Tensor:
    """f(h), from [-1, 1] to [0, 1]."""
    match strategy:
        case "linupper":
            return (h + 1).clamp_max(1.0)
        case "quadratic":
            return 1 - h**2
        case "extremes":
            return h.abs()
        case "linear":
            return (h + 1) / 2


def loss_weights(losses: Tensor, counts: Tensor, strategy: Strategy, temperature: float) -> Tensor:
    """w [B] in float64, without a gradient; over all processes they sum to one.  Infinite temperature is uniform."""
    losses = losses.detach().double()
    exponent = shape(shifted(losses, counts), strategy) / temperature
    exponent = torch.where(counts, exponent, -torch.inf)
    scaled = (exponent - _over_processes(exponent.amax(), "max").clamp_min(0)).exp()
    total = _over_processes(scaled.sum(), "sum")  # 0 only where no sequence counts
    return scaled / total.clamp_min(torch.finfo(total.dtype).tiny)


class _Progress(nn.Module):
    """The steps that were taken, and the state of the objective inside."""

    steps: Tensor

    def __init__(self, inner: nn.Module | None) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True)
class Reweighted(Objective):
    """``temperature`` is r: small lets the weights differ more.

    It holds after ``burn_in`` steps with uniform weights and ``annealing`` steps of approach.
    """

    objective: Objective = field(default_factory=CrossEntropy)
    strategy: Strategy = "linupper"
    temperature: float = 1.0
    burn_in: int = 0
    annealing: int = 0
    length_weighting: bool = False

    unit: ClassVar[Unit] = "sequence"
    couples: ClassVar[bool] = True
    ranks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective) or self.objective.unit == "parameter":
            raise ValueError(f"objective is a loss on rows, such as CrossEntropy(), not {self.objective!r}.")
        if not self.objective.ranks:
            raise ValueError(
                f"the values of {type(self.objective).__name__} here do not say which rows have more to be learned, so"
                " there is nothing to weigh them by; take one with a loss of its own for each row."
            )
        if self.strategy not in ("linupper", "quadratic", "extremes", "linear"):
            raise ValueError(f"strategy is linupper, quadratic, extremes or linear, not {self.strategy!r}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}; the larger, the more uniform.")
        if self.burn_in < 0 or self.annealing < 0:
            raise ValueError(f"burn_in and annealing are steps from 0, not {self.burn_in} and {self.annealing}.")

    def check_training(self, training: Training) -> None:
        """Refuses a stage that is over before anything is weighted."""
        if training.steps is not None and self.burn_in >= training.steps:
            raise ValueError(
                f"burn_in lasts {self.burn_in} of {training.steps} steps, so nothing is weighted; lower it."
            )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the objective inside needs."""
        return self.objective.needs

    @property
    def arity(self) -> int:  # type: ignore[override]
        """On as many roles as the objective inside."""
        return self.objective.arity

    @property
    def pairs(self) -> Pairing:  # type: ignore[override]
        """As the objective inside joins them."""
        return self.objective.pairs

    @property
    def gathers(self) -> bool:  # type: ignore[override]
        """The weights are those of all processes; so must be what the objective inside compares."""
        return self.objective.gathers or not self.objective.couples

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """Counts the stage's steps from 0; the objective inside goes on from where it was."""
        inner = {k.removeprefix("inner."): v for k, v in (previous or {}).items() if k.startswith("inner.")}
        return _Progress(self.objective.prepare(model, roles, role, inner or None))

    def after_step(self, model: nn.Module, state: nn.Module | None) -> None:
        """One step more."""
        if isinstance(state, _Progress):
            state.steps += 1
            self.objective.after_step(model, state.inner)

    def temperature_at(self, steps: int) -> float:
        """r after so many steps; infinite as long as the weights are uniform."""
        done = steps - self.burn_in
        if done < 0:
            return math.inf
        return self.temperature / min(1.0, (done + 1) / (self.annealing + 1))

    def _temperature(self, state: nn.Module | None) -> float:
        if not self.burn_in and not self.annealing:
            return self.temperature
        if not isinstance(state, _Progress):
            raise ValueError("burn_in and annealing count steps; call prepare() and pass its result as the state.")
        return self.temperature_at(int(state.steps))

    def __call__(self, view: Any, state: nn.Module | None = None) -> Tensor:
        """[B], one value per sequence: its weight, its loss, and the number of sequences, by which is divided."""
        items = self.objective(view, state.inner if isinstance(state, _Progress) else None)
        first = view[0] if isinstance(view, tuple) else view
        mask = first.mask if self.objective.unit == "token" else None
        if items.shape != (mask.shape if mask is not None else (first.size,)):
            raise ValueError(
                f"The objective inside returned a value of shape {tuple(items.shape)}; it must return one per item."
            )
        if mask is None:
            number = torch.ones_like(items, dtype=torch.int64)  # [B]
        else:
            number = mask.sum(1)  # [B]
            items = torch.where(mask, items, 0.0).sum(1) / number.clamp_min(1)
        weights = loss_weights(items, number > 0, self.strategy, self._temperature(state))  # [B]
        rows = _over_processes(torch.stack([torch.tensor(len(number)).to(number), number.sum()]), "sum")
        scale = weights * rows[0]
        if self.length_weighting:
            scale = scale * number * rows[0] / rows[1].clamp_min(1)
        return scale.to(items) * items


METHOD = Reweighted
