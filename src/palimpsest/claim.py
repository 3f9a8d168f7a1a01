"""What a paper says, as an experiment that runs.

    PAPER = Paper("Negative Preference Optimization: …", "Zhang et al.", 2024, arxiv="2404.05868", summary="…")
    PARTS = ("objectives.npo",)
    class SlowerCollapse(Claim):
        says = "At equal forgetting, NPO keeps more utility than gradient ascent."
        def run(self, budget, seeds): ...        -> Evidence

A claim never decides its verdict by hand: ``run`` measures figures with intervals and the verdict follows
from them.  "Not shown at this size" is a result.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

__all__ = [
    "Budget",
    "Claim",
    "Evidence",
    "Figure",
    "Paper",
    "PaperEntry",
    "Verdict",
    "claims_of",
    "load_paper",
    "paper_slugs",
]

Budget = Literal["cpu", "gpu"]
Verdict = Literal["shown", "partly", "not shown"]


@dataclass(frozen=True)
class Paper:
    """A publication: ``arxiv`` is the bare identifier, ``summary`` a sentence of our own, ``tags`` lower-case words."""

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    venue: str | None = None
    tags: tuple[str, ...] = ()
    summary: str = ""

    @property
    def url(self) -> str | None:
        """The paper's page on arXiv, where it has one."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


@dataclass(frozen=True)
class Figure:
    """One measured number with its 95 % interval (None where it is a count or a single exact value)."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Evidence:
    """What one claim's experiment measured, and what follows from it."""

    verdict: Verdict
    because: str
    figures: tuple[Figure, ...]
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)

    def to_json(self) -> str:
        """Stable, human-readable JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)


class Claim(ABC):
    """One statement of a paper and the experiment that tests it."""

    says: ClassVar[str]

    @abstractmethod
    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Measures; ``cpu`` ends within five minutes on two cores, ``gpu`` within twenty on one card."""


@dataclass(frozen=True)
class PaperEntry:
    """A paper's file in ``claims/``: the paper, the modules that implement it, and its claims."""

    slug: str
    paper: Paper
    parts: tuple[str, ...]
    claims: tuple[type[Claim], ...]

    @property
    def state(self) -> Literal["planned", "implemented", "claimed"]:
        """``planned`` without parts, ``implemented`` with parts, ``claimed`` once an experiment tests it."""
        return "claimed" if self.claims else "implemented" if self.parts else "planned"


@cache
def paper_slugs() -> tuple[str, ...]:
    """The slugs of all papers, from the file names of ``claims/``."""
    folder = Path(__file__).parent / "claims"
    return tuple(
        sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_"))
    )


def load_paper(slug: str) -> PaperEntry:
    """Imports one file of ``claims/``; an unknown slug ends with the nearest ones."""
    if slug not in paper_slugs():
        import difflib

        close = difflib.get_close_matches(slug, paper_slugs(), 3, 0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "`palimpsest list papers` shows all of them."
        raise LookupError(f"There is no paper {slug!r}; {hint}")
    module = importlib.import_module(f"palimpsest.claims.{slug.replace('-', '_')}")
    return PaperEntry(slug, module.PAPER, tuple(module.PARTS), claims_of(module.__name__))


def claims_of(module_name: str) -> tuple[type[Claim], ...]:
    """The concrete claims that a module defines itself, in the order of the file."""
    module = importlib.import_module(module_name)
    return tuple(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Claim) and value.__module__ == module_name
    )
