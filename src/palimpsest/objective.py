"""What is minimized: objectives over data roles, and the algebra ``+`` and ``* weight``.

    objective = on("forget", NPO(beta=0.1)) + on("retain", CrossEntropy()) + Ramp(0, 1) * on("retain", KLToReference())

A method returns one value per item and names its unit; ``evaluate`` sums and divides once, by the number of
items of that unit over the whole accumulation window and all processes.  That is why results do not change
with the batch split, the padding or the number of processes: nothing else in the library divides a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from palimpsest.views import ParameterView, Unit, View

if TYPE_CHECKING:
    from palimpsest.reference import Reference
    from palimpsest.roles import RoleBatch, Roles

__all__ = [
    "Counts",
    "Losses",
    "Objective",
    "Pairing",
    "Schedule",
    "Term",
    "Total",
    "count_items",
    "descend",
    "evaluate",
    "on",
    "prepare",
]

Schedule = Callable[[float], float]
"""Progress in [0, 1] -> multiplier; the same type drives learning rates and term weights."""

Counts = Mapping[tuple[str, Unit], float]
"""(role, unit) -> number of items in the accumulation window over all processes."""

Pairing = Literal["answers", "rows", "none"]
"""What joins the roles of one term."""

WEIGHTS = "weights"
"""The reserved role of penalties on the parameters."""


class Objective:
    """Per-item losses on one view, not reduced.  Subclasses are frozen dataclasses.

    ``unit`` says what one item is: a scored token ([B, T-1] values), a sequence, example or pair ([B] values),
    or the parameters (one value).  ``needs`` lists what must be computed beside the model: ``ref``, ``teacher``,
    ``hidden:<module path>``, and of the reference ``ref:hidden:<module path>``.  ``arity`` is the number of roles that
    one term is on: with more than one, ``view`` is the tuple of their views, paired row by row, and items are counted
    on the first.  ``pairs`` says how: by ``answers``, row i of each role answers one prompt; by ``rows``, row i belongs
    with row i, whatever the prompts; ``none``, the roles only stand beside each other.  ``couples`` says that an item's
    value depends on the other rows of its batch (contrastive losses): such an objective refuses accumulation, and
    several processes unless it ``gathers`` their rows itself.  ``even`` says that every item is the same multiple of
    ``view.logp``, which saves ``logp`` a quarter of its arithmetic.  ``ranks`` says that of two items the one with the
    larger value has more to be learned; it is False where all items carry the value of their batch, or one that means
    something else.  ``forgets`` is the place, among a term's roles, of the one to be forgotten; None where none is.
    """

    unit: ClassVar[Unit] = "token"
    needs: ClassVar[frozenset[str]] = frozenset()
    arity: ClassVar[int] = 1
    pairs: ClassVar[Pairing] = "answers"
    couples: ClassVar[bool] = False
    even: ClassVar[bool] = False
    gathers: ClassVar[bool] = False
    ranks: ClassVar[bool] = True
    forgets: ClassVar[int | None] = None
    __pydantic_config__: ClassVar[Mapping[str, bool]] = {"arbitrary_types_allowed": True}
    """For ``names.build``: a field may hold another objective, which is checked by its class."""

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> nn.Module | None:
        """Once a stage: what the method must know beforehand (a Fisher, class means, stored states), or None.

        ``previous`` is the ``state_dict`` that the same method's state ended the stage before with, None in the first.
        """
        return None

    def __call__(self, view: Any, state: nn.Module | None = None) -> Tensor:
        """One value per item; for a term on several roles, ``view`` is the tuple of their views."""
        raise NotImplementedError

    def after_step(self, model: nn.Module, state: nn.Module | None) -> None:
        """After each optimizer step: slow averages, dual variables, prototypes. Rarely needed."""


def descend(state: nn.Module, learning_rate: float) -> None:
    """One step of plain gradient descent on the parameters that an objective keeps in its state, then no gradient.

    The loss that went backward was already divided, so the gradients of several processes are added.
    """
    with torch.no_grad():
        for parameter in state.parameters():
            if parameter.grad is None:
                continue
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(parameter.grad)
            parameter.sub_(learning_rate * parameter.grad)
            parameter.grad = None


@dataclass(frozen=True)
class Term:
    """One objective on one role (or on several, paired item by item), times a weight."""

    role: tuple[str, ...]
    objective: Objective
    weight: float | Schedule = 1.0
    label: str = ""

    @property
    def name(self) -> str:
        """``role/method``, as progress bars, curves and errors show it."""
        if self.label:
            return self.label
        return f"{'+'.join(self.role)}/{self.method}"

    @property
    def method(self) -> str:
        """The objective's name in a recipe, or its class's where it is not one of the library's."""
        home, own = type(self.objective).__module__, type(self.objective).__name__
        return home.rsplit(".", 1)[-1] if home.startswith("palimpsest.") else own

    @property
    def joins(self) -> bool:
        """Whether row i of one of its roles belongs with row i of the others."""
        return len(self.role) > 1 and self.objective.pairs != "none"

    def weight_at(self, progress: float) -> float:
        """The weight at ``progress`` in [0, 1]."""
        return self.weight(progress) if callable(self.weight) else self.weight

    def __mul__(self, weight: float | Schedule) -> Term:
        if isinstance(weight, Objective | type) or not (callable(weight) or isinstance(weight, (int, float))):
            raise TypeError(f"A term is multiplied by a number or by a function of progress, not by {weight!r}.")
        if not callable(weight) and not callable(self.weight):
            return replace(self, weight=self.weight * float(weight))
        return replace(self, weight=_Product(self.weight, weight))

    __rmul__ = __mul__

    def __add__(self, other: Term | Total) -> Total:
        return Total((self,)) + other

    def __radd__(self, other: int) -> Total:
        """``sum(terms)``, which begins with 0."""
        return Total((self,)).__radd__(other)


@dataclass(frozen=True)
class _Product:
    """The product of two weights of which at least one is a schedule."""

    left: float | Schedule
    right: float | Schedule

    def __call__(self, progress: float) -> float:
        left = self.left(progress) if callable(self.left) else self.left
        right = self.right(progress) if callable(self.right) else self.right
        return left * right


@dataclass(frozen=True)
class Total:
    """A sum of terms."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("An objective needs at least one term; write on(role, method).")
        seen: dict[str, int] = {}
        unique = []
        for term in self.terms:
            seen[term.name] = seen.get(term.name, 0) + 1
            unique.append(term if seen[term.name] == 1 else replace(term, label=f"{term.name}#{seen[term.name]}"))
        object.__setattr__(self, "terms", tuple(unique))

    def __add__(self, other: Term | Total) -> Total:
        if isinstance(other, Term):
            return Total((*self.terms, other))
        if isinstance(other, Total):
            return Total((*self.terms, *other.terms))
        raise TypeError(f"A term can be added to a term, not to {other!r}; write on(role, method).")

    def __radd__(self, other: int) -> Total:
        """``sum(totals)``, which begins with 0."""
        if other != 0:
            raise TypeError(f"A term can be added to a term, not to {other!r}; write on(role, method).")
        return self

    def __mul__(self, weight: float | Schedule) -> Total:
        return Total(tuple(term * weight for term in self.terms))

    __rmul__ = __mul__

    @property
    def roles(self) -> tuple[str, ...]:
        """The data roles in use, in order of appearance."""
        return tuple(dict.fromkeys(r for t in self.terms for r in t.role if r != WEIGHTS))

    @property
    def pairs(self) -> tuple[tuple[str, ...], ...]:
        """The roles of each term that joins row i of one with row i of the others: they are drawn in one order."""
        return tuple(t.role for t in self.terms if t.joins)

    @property
    def methods(self) -> dict[str, str]:
        """Term name -> its method, numbered where it occurs again: what finds a method's state in the next stage."""
        found: dict[str, str] = {}
        for term in self.terms:
            earlier = sum(m.partition("#")[0] == term.method for m in found.values())
            found[term.name] = f"{term.method}#{earlier + 1}" if earlier else term.method
        return found

    def needs(self, kind: str) -> tuple[str, ...]:
        """The roles on which some term needs ``kind`` (``ref`` or ``teacher``)."""
        return tuple(dict.fromkeys(r for t in self.terms if kind in t.objective.needs for r in t.role if r != WEIGHTS))

    @property
    def taps(self) -> frozenset[str]:
        """The needs that the model's own forward pass must record."""
        return self.taps_of("")

    def taps_of(self, kind: str) -> frozenset[str]:
        """What the forward pass of the companion ``kind`` (``ref`` or ``teacher``) must record."""
        prefix = f"{kind}:" if kind else ""
        wanted = (n.removeprefix(prefix) for t in self.terms for n in t.objective.needs if n.startswith(prefix))
        return frozenset(n for n in wanted if n.startswith("hidden:"))


def on(role: str | tuple[str, ...], objective: Objective) -> Term:
    """``objective`` applied to the rows of ``role``; several roles are handed over together, paired by position."""
    if isinstance(objective, type):
        raise TypeError(f"on({role!r}, {objective.__name__}) needs an instance; write {objective.__name__}().")
    if not isinstance(objective, Objective):
        raise TypeError(f"on({role!r}, …) needs an objective such as CrossEntropy(), not {objective!r}.")
    roles = (role,) if isinstance(role, str) else tuple(role)
    if len(roles) != objective.arity:
        wanted = "one role" if objective.arity == 1 else f"{objective.arity} roles, paired row by row"
        raise ValueError(f"{type(objective).__name__} looks at {wanted}, not at {len(roles)}; name as many.")
    name, of_weights = type(objective).__name__, objective.unit == "parameter"
    if WEIGHTS in roles and not of_weights:
        raise ValueError(f"{name} looks at rows, and the role weights has none; name a role that has data.")
    if of_weights and WEIGHTS not in roles:
        raise ValueError(f"{name} looks at the parameters and not at rows; it goes on the role weights.")
    return Term(roles, objective)


@dataclass(frozen=True)
class Losses:
    """``total`` is the weighted sum to differentiate, ``terms`` its summands, ``parts`` their unweighted values."""

    total: Tensor
    terms: dict[str, Tensor]
    parts: dict[str, Tensor] = field(default_factory=dict)


def count_items(total: Total | Term, batches: Sequence[RoleBatch]) -> dict[tuple[str, Unit], float]:
    """Items per (first role, unit) over the micro-batches of this process; sum it over processes.

    Raises ``ValueError`` where a term joins rows of two roles that do not belong together.
    """
    total = Total((total,)) if isinstance(total, Term) else total
    for term in (t for t in total.terms if t.joins):
        _refuse_strangers(term, batches)
    keys = {(t.role[0], t.objective.unit) for t in total.terms}
    return {
        (role, unit): 1.0 if unit == "parameter" else float(sum(b.adapter.count(b[role], unit) for b in batches))
        for role, unit in keys
    }


def _refuse_strangers(term: Term, batches: Sequence[RoleBatch]) -> None:
    """Whether the rows that stand side by side are those of one number, as far as the batches know it."""
    for batch in batches:
        first, *others = (batch[role].get("index") for role in term.role)
        for role, index in zip(term.role[1:], others, strict=True):
            if first is None or index is None or (first.shape == index.shape and bool((first == index).all())):
                continue
            if first.shape == index.shape:  # of another size, the objective says what it makes of them
                raise ValueError(
                    f"{term.name} joins row i of {term.role[0]!r} with row i of {role!r}, but this batch holds them in"
                    f" two orders; draw both in one with Roles.window(…, pairs=total.pairs)."
                )


def prepare(
    objective: Total | Term, model: nn.Module, roles: Roles, previous: Mapping[str, Mapping[str, Tensor]] | None = None
) -> dict[str, nn.Module | None]:
    """Term name -> what its objective must know before the first step (``evaluate(…, states=…)``), or None.

    Call it once, at the weights with which a stage of training begins.  ``previous`` holds, by method, the
    ``state_dict`` with which the stage before ended.
    """
    total = Total((objective,)) if isinstance(objective, Term) else objective
    methods, bare = total.methods, model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return {
        t.name: t.objective.prepare(bare, roles, t.role[0], (previous or {}).get(methods[t.name])) for t in total.terms
    }


def evaluate(
    total: Total | Term,
    model: nn.Module,
    batch: RoleBatch,
    *,
    reference: Reference | None = None,
    teacher: Reference | None = None,
    counts: Counts | None = None,
    progress: float = 0.0,
    states: Mapping[str, nn.Module | None] | None = None,
    share: float = 1.0,
) -> Losses:
    """One forward over all roles, every term's items, each summed and divided once.

    ``counts`` are the items of the whole accumulation window over all processes (``count_items``); without them
    this batch is the window.  ``states`` are those of ``prepare``.  ``share`` is this micro-batch's part of a penalty
    on parameters, which has no items to be counted: 1 / (micro-batches x processes).
    """
    total = Total((total,)) if isinstance(total, Term) else total
    missing = [r for r in total.roles if r not in batch]
    if missing:
        raise ValueError(
            f"The objective uses the role {missing[0]!r}, but the batch has: {', '.join(batch) or 'none'}."
        )
    views = dict(batch.adapter.views(model, batch, total.roles, total.taps)) if total.roles else {}
    for kind, companion in (("ref", reference), ("teacher", teacher)):
        _join(views, total, kind, companion, model, batch)
    for role, view in views.items():
        view.even = all(t.objective.even for t in total.terms if role in t.role)
    norm = count_items(total, [batch]) if counts is None else counts
    terms, parts = {}, {}
    for term in total.terms:
        value = _reduce(term, views, model, (states or {}).get(term.name), norm, share)
        parts[term.name] = value.detach()
        terms[term.name] = term.weight_at(progress) * value
    return Losses(torch.stack(list(terms.values())).sum(), terms, parts)


def _join(
    views: Mapping[str, View],
    total: Total,
    kind: str,
    companion: Reference | None,
    model: nn.Module,
    batch: RoleBatch,
) -> None:
    """Puts what the reference or the teacher sees beside the model's views, where a term asks for it."""
    wanted = total.needs(kind)
    if wanted and companion is None:
        name = next(t.name for t in total.terms if kind in t.objective.needs)
        word = "reference" if kind == "ref" else "teacher"
        raise ValueError(
            f"{name} needs a {word} model; pass evaluate(…, {word}=…), for example Copy(model) taken before training."
        )
    if wanted and companion is not None:
        for role, view in companion.views(model, batch, wanted, total.taps_of(kind)).items():
            views[role].companions[kind] = view


def _reduce(
    term: Term, views: Mapping[str, View], model: nn.Module, state: nn.Module | None, counts: Counts, share: float
) -> Tensor:
    """Sum of a term's items over their number in the window."""
    unit = term.objective.unit
    if unit == "parameter":
        return term.objective(ParameterView(model), state).sum() * share
    seen = tuple(views[r] for r in term.role)
    items = term.objective(seen[0] if len(seen) == 1 else seen, state)
    first = seen[0]
    expected = tuple(first.mask.shape) if unit == "token" and first.mask is not None else (first.size,)
    if tuple(items.shape) != expected:
        raise ValueError(
            f"{term.name} returned values of shape {tuple(items.shape)} for unit {unit!r}, which has shape {expected}; "
            "an objective returns one value per item and does not reduce."
        )
    weight = first.batch.get("weight")
    if weight is not None:
        items = items * weight.to(items).view(-1, *[1] * (items.ndim - 1))
    if unit == "token" and first.mask is not None:
        items = torch.where(first.mask, items, 0.0)
    number = counts[term.role[0], unit]
    if number == 0:
        raise ValueError(
            f"{term.name} has no {unit} to score in this step; check the labels of the role {term.role[0]!r}."
        )
    return items.sum() / number
