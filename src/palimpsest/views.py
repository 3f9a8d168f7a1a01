"""What a method may look at in one step.

A view is one role's batch together with the model's outputs on it, each computed on first use and kept for
the step.  The method cannot tell how they were computed: ``logp`` never makes the [B, T, V] logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palimpsest.audit import Row, Subject
from palimpsest.kernels.linear_log_probability import linear_log_probability, linear_logits

__all__ = [
    "Adapter",
    "Batch",
    "Example",
    "Head",
    "LabelView",
    "Moments",
    "ParameterView",
    "Scores",
    "TokenOutputs",
    "TokenView",
    "Unit",
    "View",
]

Batch = Mapping[str, Tensor]
Example = Mapping[str, Tensor]
Unit = Literal["token", "sequence", "example", "pair", "parameter"]
IGNORE = -100
"""The label of a position that is not scored, as in ``torch.nn.functional.cross_entropy``."""
BLOCKS = "blocks"
"""In ``hidden:blocks``: what every block of the model puts out, from the first to the last, side by side."""
FEW_LOGITS = 2**21
"""Up to as many logits are kept for the backward: they need no more than the blocks' buffers, and one product less."""
BLOCK_LOGITS = 2**22
"""Logits in one block where whole distributions are compared."""


class View:
    """One role's batch as one model sees it.

    ``even`` says that the loss will weigh all items alike, which lets ``logp`` make its gradients at once.
    ``ref`` and ``teacher`` are the same batch as the reference model and the teacher see it.  Asking for one
    that the objective did not announce in ``needs`` is an error, since it was then not computed.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.companions: dict[str, View] = {}
        self.even = False

    def companion(self, name: str) -> Any:
        """The view of a frozen companion model on the same batch."""
        if name not in self.companions:
            raise ValueError(
                f"The objective asked for view.{name}, but no {name} was given; list {name!r} in the objective's "
                "`needs` and pass one to evaluate()."
            )
        return self.companions[name]

    @property
    def size(self) -> int:
        """Number of rows B."""
        return len(next(iter(self.batch.values())))

    @property
    def mask(self) -> Tensor | None:
        """Which entries of a per-token value count, or None where every entry does."""
        return None


@dataclass(frozen=True)
class Head:
    """The output layer of a language model: logits = scale * hidden @ weight.T + bias, then an optional soft cap."""

    weight: Tensor  # [V, D]
    bias: Tensor | None = None  # [V]
    softcap: float | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class TokenOutputs:
    """One role's share of a forward pass: ``hidden`` [B, T, D] is what enters the head, ``logits`` [B, T, V] only
    where the head cannot be applied apart from the model; ``taps`` holds the activations an objective asked for."""

    hidden: Tensor | None = None
    head: Head | None = None
    logits: Tensor | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)


class TokenView(View):
    """A causal language model on one role's rows.  The shift between inputs and targets is done here, once."""

    def __init__(self, batch: Batch, outputs: TokenOutputs) -> None:
        super().__init__(batch)
        self.outputs = outputs

    @property
    def ref(self) -> TokenView:
        """The frozen reference model on the same rows."""
        view: TokenView = self.companion("ref")
        return view

    @property
    def teacher(self) -> TokenView:
        """The teacher on the same rows."""
        view: TokenView = self.companion("teacher")
        return view

    @property
    def targets(self) -> Tensor:
        """[B, T-1] the token each position predicts; -100 where it is not scored."""
        return self.batch["labels"][:, 1:]

    @cached_property
    def mask(self) -> Tensor:
        """[B, T-1] bool: the scored positions."""
        return self.targets != IGNORE

    @cached_property
    def attended(self) -> Tensor:
        """[B, T-1] bool: positions that are text, scored or not, and predict text."""
        seen = self.batch["attention_mask"].bool()
        return seen[:, 1:] & seen[:, :-1]

    @cached_property
    def logp(self) -> Tensor:
        """[B, T-1] float32 log-probability of the targets in nats, 0 where not scored."""
        out = self.outputs
        if out.hidden is None or out.head is None:
            logits = self.logits[:, :-1]  # [B, T-1, V]
            picked = logits.gather(-1, self.targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)  # [B, T-1]
            return torch.where(self.mask, picked - logits.logsumexp(-1), 0.0)
        head = out.head
        if head.bias is None and int(self.mask.sum()) * len(head.weight) <= FEW_LOGITS:
            logits = linear_logits(out.hidden[:, :-1][self.mask], head.weight, softcap=head.softcap, scale=head.scale)
            scored = -F.cross_entropy(logits, self.targets[self.mask], reduction="none")
            return scored.new_zeros(self.mask.shape).masked_scatter(self.mask, scored)
        return linear_log_probability(
            out.hidden[:, :-1],
            head.weight,
            self.targets,
            head.bias,
            softcap=head.softcap,
            scale=head.scale,
            even=self.even,
        )

    @cached_property
    def seq_logp(self) -> Tensor:
        """[B] log-probability of all scored targets of a row, summed."""
        return self.logp.sum(1)

    @cached_property
    def logits(self) -> Tensor:
        """[B, T, V] float32, unshifted. Costs the memory that ``logp`` avoids."""
        out = self.outputs
        if out.logits is not None:
            return out.logits if out.logits.dtype == torch.float64 else out.logits.float()
        if out.hidden is None or out.head is None:
            raise ValueError("These columns hold log-probabilities only; use a reference that runs the model (copy).")
        return linear_logits(out.hidden, out.head.weight, out.head.bias, softcap=out.head.softcap, scale=out.head.scale)

    @property
    def log_probs(self) -> Tensor:
        """[B, T-1, V] log-probabilities at the positions that predict ``targets``."""
        return self.logits[:, :-1].log_softmax(-1)

    def compare(self, other: TokenView, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """[B, T-1] ``value(own, others) -> [n]`` of log-probabilities [n, V] at the scored positions, 0 elsewhere.

        ``other`` is constant.  A block of positions is taken at a time, and once more in the backward, so that
        [B, T, V] is never in memory.
        """

        def block(own: Tensor, others: Tensor) -> Tensor:
            with torch.no_grad():
                constant = other._normalized(others)
            return value(self._normalized(own), constant)

        mine, others = (v._before_head[:, :-1][self.mask] for v in (self, other))  # [N, D], or [N, V] without a head
        head = self.outputs.head
        rows = max(1, BLOCK_LOGITS // (mine.shape[-1] if head is None else len(head.weight)))
        if len(mine) <= rows:
            found = block(mine, others)
        else:
            pairs = zip(torch.split(mine, rows), torch.split(others, rows), strict=True)
            found = torch.cat([checkpoint(block, *p, use_reentrant=False, preserve_rng_state=False) for p in pairs])
        return found.new_zeros(self.mask.shape).masked_scatter(self.mask, found)

    @property
    def _before_head(self) -> Tensor:
        """What enters the head [B, T, D], or the logits [B, T, V] of a model whose head is not apart."""
        out = self.outputs
        return self.logits if out.hidden is None or out.head is None else out.hidden

    def _normalized(self, rows: Tensor) -> Tensor:
        """Log-probabilities [n, V] from rows of ``_before_head``."""
        head = self.outputs.head
        if head is not None and self.outputs.hidden is not None:
            rows = linear_logits(rows, head.weight, head.bias, softcap=head.softcap, scale=head.scale)
        return rows.log_softmax(-1)

    def hidden(self, name: str = "last") -> Tensor:
        """[B, T, D] activation of a module path, or of ``last``: what enters the head.

        ``blocks`` [B, T, blocks * D] is what all of the model's blocks put out, side by side.
        """
        if name == "last" and self.outputs.hidden is not None:
            return self.outputs.hidden
        if name not in self.outputs.taps:
            raise ValueError(
                f"The activation {name!r} was not recorded; list 'hidden:{name}' in the objective's `needs`."
            )
        return self.outputs.taps[name]


@dataclass(frozen=True)
class Moments:
    """What a loss of the spherical family asks of C scores an item: the target's, and the mean and variance of all."""

    target: Tensor  # [N]
    mean: Tensor  # [N]
    variance: Tensor  # [N], over the population
    classes: int

    @staticmethod
    def of(logits: Tensor, labels: Tensor) -> Moments:
        """Those of ``logits`` [N, C] that are there."""
        variance, mean = torch.var_mean(logits, -1, correction=0)
        return Moments(logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1), mean, variance, logits.shape[-1])


@runtime_checkable
class Scores(Protocol):
    """Class scores [B, C] that an output layer has not computed, because a loss may need only their moments."""

    @property
    def shape(self) -> Sequence[int]:
        """(B, C)."""
        ...

    def split(self, sizes: list[int]) -> Sequence[Scores]:
        """The scores of successive rows, as ``Tensor.split``."""
        ...

    def moments(self, labels: Tensor) -> Moments:
        """For the classes ``labels`` [B]."""
        ...

    def logits(self) -> Tensor:
        """All of them, [B, C], where that can be had."""
        ...


class LabelView(View):
    """A classifier on one role's rows: any module from tensors to logits.

    A model may answer a row several times in succession (multi-sample dropout).  The view then holds the row as often
    as ``answers`` says, each time with its share of the row's weight, so that any loss becomes the mean over them.
    """

    def __init__(self, batch: Batch, logits: Tensor | Scores, features: Tensor | None = None) -> None:
        rows = len(next(iter(batch.values()), ()))
        answers = max(1, logits.shape[0] // max(1, rows))
        if answers > 1:
            weight = batch.get("weight", torch.ones(rows, device=next(iter(batch.values())).device))
            batch = {k: v.repeat_interleave(answers, 0) for k, v in {**batch, "weight": weight / answers}.items()}
        if features is not None and len(features) < logits.shape[0]:
            features = features.repeat_interleave(answers, 0)
        super().__init__(batch)
        self.answers = answers
        self._scores = logits  # [B, C]
        self._features = features  # [B, D]

    @cached_property
    def logits(self) -> Tensor:
        """[B, C]."""
        return self._scores if isinstance(self._scores, Tensor) else self._scores.logits()

    @cached_property
    def moments(self) -> Moments:
        """Each row's own score, and the mean and variance of all: without the [B, C] where the model can do so."""
        if isinstance(self._scores, Tensor):
            return Moments.of(self._scores, self.labels)
        return self._scores.moments(self.labels)

    @property
    def ref(self) -> LabelView:
        """The frozen reference model on the same rows."""
        return self._beside("ref")

    @property
    def teacher(self) -> LabelView:
        """The teacher on the same rows."""
        return self._beside("teacher")

    def _beside(self, name: str) -> LabelView:
        """A companion's view, each of its rows as often as here."""
        view: LabelView = self.companion(name)
        if view.size == self.size:
            return view
        answers = self.size // view.size
        features = None if view._features is None else view._features.repeat_interleave(answers, 0)
        return LabelView(self.batch, view.logits.repeat_interleave(answers, 0), features)

    @property
    def labels(self) -> Tensor:
        """[B] int64 class of each row."""
        return self.batch["labels"]

    @cached_property
    def log_probs(self) -> Tensor:
        """[B, C] log-probabilities of the classes."""
        return (
            self.logits.float().log_softmax(-1) if self.logits.dtype != torch.float64 else self.logits.log_softmax(-1)
        )

    @cached_property
    def logp(self) -> Tensor:
        """[B] log-probability of each row's class in nats."""
        return self.log_probs.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)

    @property
    def features(self) -> Tensor:
        """[B, D] what enters the last layer."""
        if self._features is None:
            raise ValueError(
                "No features were recorded; name the module that gives them: model.features in a recipe,"
                " Classifier(features=...) in Python."
            )
        return self._features


class ParameterView(View):
    """The weights themselves, for penalties: the reserved role ``weights``.  Names are those without DDP's prefix."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__({})
        bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.parameters = {name: p for name, p in bare.named_parameters() if p.requires_grad}

    @property
    def size(self) -> int:
        """One penalty, one item."""
        return 1


class Adapter(Protocol):
    """One kind of model: turns rows into tensors, makes the view a method sees and the subject an audit asks."""

    def encode(self, row: Row, place: str) -> Example:
        """One row as tensors; ``place`` names it in errors."""
        ...

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples as one batch, padded where needed."""
        ...

    def views(
        self, model: nn.Module, batch: Mapping[str, Batch], roles: Sequence[str], needs: frozenset[str] = frozenset()
    ) -> Mapping[str, View]:
        """One forward pass over all the roles together, and a view for each."""
        ...

    def count(self, batch: Batch, unit: Unit) -> int:
        """Number of items of that unit, known before the forward pass."""
        ...

    def subject(self, model: nn.Module) -> Subject:
        """What an audit may ask of the model."""
        ...
