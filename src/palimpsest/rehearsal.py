"""Whether a recipe's rows have what its stages and audits read, found out before a model is loaded.

What is trained on is looked at row by row.  Every audit is called once with a subject that answers nothing: it reads
the columns it needs, asks its first question, and is stopped there.  What the tokenizer decides (a row that is too
long, a prompt that leaves no room) is found later, when it is there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from palimpsest.audit import Row, Unmeasurable
from palimpsest.loaded import Check, row_checks
from palimpsest.recipe import Recipe, RecipeError, Spec
from palimpsest.recipe_parts import compile_audits_of
from palimpsest.role_data import audit_names
from palimpsest.roles import Answers, Derived

__all__ = ["rehearse"]


def rehearse(
    recipe: Recipe,
    rows: Mapping[str, Sequence[Row]],
    answers: Mapping[str, Answers | Derived],
    trained: Collection[str],
    *,
    allow_imports: bool = False,
) -> None:
    """Raises ``RecipeError`` where a row of the roles ``trained``, or one that an audit reads, lacks what is read."""
    scored, prompted = row_checks(recipe.model)
    for role in (role for role in (*rows, *answers) if role in trained):
        try:
            _try_training(role, rows, answers, scored)
        except ValueError as error:
            raise RecipeError(f"roles.{role}: {error}") from None
    subject = _Silent(scored, prompted)
    audits = {"audits": recipe.audits}
    stages = {f"stages.{i}": stage for i, stage in enumerate(recipe.stages)}
    stages |= {f"variants.{v}.{i}": stage for v, own in recipe.variants.items() for i, stage in enumerate(own)}
    audits |= {f"{place}.watch.audits": stage.watch.audits for place, stage in stages.items() if stage.watch}
    for place, own in audits.items():
        _try_audits(own, place, subject, rows, allow_imports)


def _try_training(
    role: str, rows: Mapping[str, Sequence[Row]], answers: Mapping[str, Answers | Derived], scored: Check
) -> None:
    """Every row of a role, or of a paired role the first with every answer."""
    if role in rows:
        for number, row in enumerate(rows[role], 1):
            scored(row, f"{role} row {number}")
        return
    paired = answers[role]
    for row in paired.trials(rows[paired.to][0]):
        scored(row, f"{paired.to} row 1 with an answer")


def _try_audits(
    audits: Mapping[str, Sequence[Spec]],
    place: str,
    subject: _Silent,
    rows: Mapping[str, Sequence[Row]],
    allow_imports: bool,
) -> None:
    for role, own in compile_audits_of(audits, place, allow_imports=allow_imports).items():
        for name, audit in zip(audit_names(audits[role]), own, strict=True):
            try:
                audit(subject, rows, role)
            except Unmeasurable as error:
                raise RecipeError(f"{place}.{role}.{name}: {error}") from None
            except Exception:  # it went as far as it can go without a model
                continue


class _Asked(Exception):
    """An audit has read its rows and asks its first question."""


@dataclass(frozen=True)
class _Silent:
    """A subject that looks at the rows of a question and does not answer it."""

    scored: Check
    prompted: Check

    def _stop(self, rows: Sequence[Row], check: Check) -> NoReturn:
        for number, row in enumerate(rows, 1):
            try:
                check(row, f"row {number}")
            except ValueError as error:
                raise Unmeasurable(str(error)) from None
        raise _Asked

    def logp(self, rows: Sequence[Row]) -> NoReturn:
        """Needs rows that can be scored."""
        self._stop(rows, self.scored)

    def matches(self, rows: Sequence[Row]) -> NoReturn:
        """Needs rows that can be scored."""
        self._stop(rows, self.scored)

    def embed(self, rows: Sequence[Row]) -> NoReturn:
        """Needs rows that can be scored."""
        self._stop(rows, self.scored)

    def predict(self, rows: Sequence[Row]) -> NoReturn:
        """Needs rows that can be scored."""
        self._stop(rows, self.scored)

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> NoReturn:
        """Needs prompts."""
        self._stop(rows, self.prompted)

    def sample(
        self, rows: Sequence[Row], max_new_tokens: int, *, count: int, seeds: Sequence[int], temperature: float = 1.0
    ) -> NoReturn:
        """Needs prompts."""
        self._stop(rows, self.prompted)

    def truncate(self, texts: Sequence[str], tokens: int) -> NoReturn:
        """Only a tokenizer can."""
        raise _Asked
