"""The report of a run as data: ``report.json``, version 1.

A report holds everything that the page shows and nothing that has to be computed again: figures with
intervals, changes, verdicts, costs, the items that changed most, the resolved recipe and the environment.
An undefined number is nan here and null in the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from palimpsest.verdict import Verdict

__all__ = [
    "VERSION",
    "Change",
    "Curve",
    "Item",
    "Kind",
    "Matrix",
    "Report",
    "Run",
    "Score",
    "StageFigure",
    "Verdict",
    "Versus",
    "over_seeds",
]

VERSION = 1
"""Raised when a field is removed or changes its meaning; an older reader refuses a newer file."""

Kind = Literal["before", "after", "variant", "baseline"]


@dataclass(frozen=True)
class Run:
    """One model that was audited, and what it cost; None where a cost is unknown or does not apply.

    ``before`` and ``retrained`` name the runs that it is held against, which are its own where several are compared
    that did not start alike; empty where there is none that started as it did.
    """

    name: str
    kind: Kind
    label: str = ""
    seconds: float | None = None
    tokens: int | None = None
    steps: int | None = None
    peak_memory_bytes: int | None = None
    trainable_parameters: int | None = None
    companions: tuple[dict[str, Any], ...] = ()
    before: str = "before"
    retrained: str = "retrained"


@dataclass(frozen=True)
class Score:
    """The figure of one run in one audit with its 95 % interval; ``per_seed`` are the figures it is the mean of."""

    run: str
    role: str
    audit: str
    value: float
    low: float
    high: float
    n: int
    statistic: str = "mean"
    better: str = "higher"
    unit: str = ""
    per_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Change:
    """A run against its run ``before`` (see ``Run``): paired change, its test, and Hedges' g.

    ``p`` is two-sided and of this comparison alone; ``p_holm`` is adjusted for all changes of the report.
    """

    run: str
    role: str
    audit: str
    change: float
    low: float
    high: float
    test: str
    p: float
    p_holm: float
    effect: float


@dataclass(frozen=True)
class Versus:
    """A run against another one, ``reference``: a difference, a relative difference in percent, or a KS statistic.

    The reference is the run's ``retrained`` (see ``Run``), or, of a variant's difference, the run ``after``; of several
    runs that are compared, the first.
    """

    run: str
    role: str
    audit: str
    reference: str
    kind: Literal["difference", "relative", "ks"]
    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Curve:
    """A quantity over the training steps of one run, as (step, value), the mean over the seeds."""

    run: str
    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StageFigure:
    """A figure of a stage matrix, such as backward transfer, with its 95 % interval; nan where it is undefined.

    ``over_items`` says that the interval is over items and seeds, and not over seeds alone.
    """

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    over_items: bool = False


@dataclass(frozen=True)
class Matrix:
    """One audit of one run before its stages and after each: ``values[stage][role]``, and figures drawn from it.

    ``differences`` are a variant's figures minus those of the run ``after``, paired by item and seed.
    """

    audit: str
    stages: tuple[str, ...]
    roles: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    better: str = "higher"
    run: str = "after"
    figures: tuple[StageFigure, ...] = ()
    differences: tuple[StageFigure, ...] = ()


@dataclass(frozen=True)
class Item:
    """One item that changed much: its prompt, the expected answer, and what every run made of it."""

    role: str
    audit: str
    id: str
    prompt: str
    target: str
    outputs: dict[str, str]
    values: dict[str, float]
    change: float


@dataclass(frozen=True)
class Report:
    """Everything that one recipe's run measured; ``created`` is an ISO 8601 time."""

    name: str
    created: str
    verdicts: tuple[Verdict, ...] = ()
    runs: tuple[Run, ...] = ()
    scores: tuple[Score, ...] = ()
    changes: tuple[Change, ...] = ()
    versus: tuple[Versus, ...] = ()
    curves: tuple[Curve, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    items: tuple[Item, ...] = ()
    recipe: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    version: int = VERSION

    def unit_of(self, role: str, audit: str) -> str:
        """The unit of a figure; empty where it has none."""
        return next((s.unit for s in self.scores if (s.role, s.audit) == (role, audit)), "")

    def to_json(self) -> str:
        """Valid JSON in plain ASCII, so that any text a model prints survives; undefined numbers are null."""
        return json.dumps(_without_nan(dataclasses.asdict(self)), indent=1, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Writes the file whole or not at all."""
        from palimpsest.checkpoint import write_text  # which imports torch

        write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Reads a report; a file that is none ends with a ``ValueError`` of one sentence that names the place."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: this is no JSON ({error}); give the report.json of a run.") from None
        return cls.from_data(data, str(path))

    @classmethod
    def from_data(cls, data: Any, place: str = "report") -> Report:
        """A report from parsed JSON, checked field by field."""
        if not isinstance(data, dict) or "version" not in data:
            raise ValueError(f"{place}: this is no report, since it has no version; give the report.json of a run.")
        if data["version"] != VERSION:
            raise ValueError(
                f"{place}: the report has version {data['version']!r} and this Palimpsest reads version {VERSION}; "
                "open it with the release that wrote it, or run its recipe again."
            )
        report = _read(cls, data, place)
        assert isinstance(report, Report)
        return report


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(member) for member in value]
    if value is None or isinstance(value, str | int):
        return value
    return str(value)  # a path, a device or a dtype in the environment


def _read(kind: Any, value: Any, place: str) -> Any:
    """``value`` of parsed JSON as ``kind``: a dataclass, a union, a tuple, a dict, a literal or a plain type."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_fields(kind, value, place)
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _read(next(m for m in members if m is not type(None)), value, place)
    if origin is Literal:
        return value if value in members else _refuse(value, f"one of {', '.join(map(repr, members))}", place)
    if origin is tuple:
        if not isinstance(value, list):
            return _refuse(value, "a list", place)
        if members[-1] is Ellipsis:
            return tuple(_read(members[0], member, f"{place}.{i}") for i, member in enumerate(value))
        if len(value) != len(members):
            return _refuse(value, f"a list of {len(members)}", place)
        return tuple(_read(m, member, f"{place}.{i}") for i, (m, member) in enumerate(zip(members, value)))
    if origin is dict:
        if not isinstance(value, dict):
            return _refuse(value, "an object", place)
        return {key: _read(members[1], member, f"{place}.{key}") for key, member in value.items()}
    if kind is float:
        if value is None:
            return math.nan
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number else _refuse(value, "a number or null", place)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    return value if fits else _refuse(value, {str: "text", int: "a whole number"}[kind], place)


def _read_fields(kind: type, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        return _refuse(value, "an object", place)
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ValueError(f"{place}: there is no field {unknown[0]!r}; it has {', '.join(hints)}.")
    found = {}
    for entry in dataclasses.fields(kind):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if entry.name in value:
            found[entry.name] = _read(hints[entry.name], value[entry.name], f"{place}.{entry.name}")
        elif required:
            raise ValueError(f"{place}: the field {entry.name!r} is missing; the file is incomplete, so run it again.")
    return kind(**found)


def _refuse(value: Any, wanted: str, place: str) -> Any:
    raise ValueError(f"{place}: this must be {wanted}, not {str(value)[:60]!r}.")


def over_seeds(curves: Sequence[Curve]) -> list[Curve]:
    """One curve for each run and quantity: the mean over the seeds, at the steps that all of them have."""
    found: dict[tuple[str, str], list[dict[float, float]]] = {}
    for curve in curves:
        found.setdefault((curve.run, curve.name), []).append(dict(curve.points))
    return [
        Curve(run, name, tuple((s, fmean(own[s] for own in seeds)) for s in seeds[0] if all(s in own for own in seeds)))
        for (run, name), seeds in found.items()
    ]
