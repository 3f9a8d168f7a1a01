"""Whether a recipe's rows have what its stages and audits read, found out before a model is loaded.

What is trained on is looked at row by row.  Every audit is called once with a subject that answers nothing: it reads
the columns it needs, asks its first question, and is stopped there.  What the tokenizer decides (a row that is too
long, a prompt that leaves no room) is found by doing so again when it is there, before anything is trained; and so is
a model that could not be written as a whole once it is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, Protocol, runtime_checkable

from palimpsest.audit import Row, Unmeasurable
from palimpsest.checkpoint import Unwritable
from palimpsest.loaded import Check, Loaded, row_checks
from palimpsest.pairing import check_pairs
from palimpsest.recipe import Recipe, RecipeError, Spec, Stage
from palimpsest.recipe_parts import compile_audits_of, compile_objective
from palimpsest.role_data import audit_names
from palimpsest.roles import Answers, Derived
from palimpsest.stage_folder import WritesConfig

__all__ = ["ChecksPrompts", "rehearse", "rehearse_loaded"]


@runtime_checkable
class ChecksPrompts(Protocol):
    """A subject that can say whether an answer would fit behind a prompt."""

    def check_prompt(self, row: Row, place: str, max_new_tokens: int) -> object:
        """Raises ``ValueError`` where so many new tokens would not fit."""
        ...


def rehearse(
    recipe: Recipe,
    rows: Mapping[str, Sequence[Row]],
    answers: Mapping[str, Answers | Derived],
    stages: Mapping[str, Stage],
    *,
    allow_imports: bool = False,
) -> None:
    """Raises ``RecipeError`` where a row that one of the ``stages`` (by place) or an audit reads lacks what is read.

    It also does where rows that a term joins do not belong together.
    """
    scored, prompted = row_checks(recipe.model)
    found = {place: compile_objective(stage, place, allow_imports=allow_imports) for place, stage in stages.items()}
    totals = {place: total for place, total in found.items() if total is not None}
    trained = {role for total in totals.values() for role in total.roles}
    for role in (role for role in (*rows, *answers) if role in trained):
        try:
            _try_training(role, rows, answers, scored)
        except ValueError as error:
            raise RecipeError(f"roles.{role}: {error}") from None
    for place, total in totals.items():
        try:
            check_pairs(total, rows, answers)
        except ValueError as error:
            raise RecipeError(f"{place}.objective: {error}") from None
    _try_all_audits(recipe, rows, _Silent(scored, lambda row, place, _: prompted(row, place)), allow_imports)


def rehearse_loaded(
    recipe: Recipe, rows: Mapping[str, Sequence[Row]], loaded: Loaded, *, allow_imports: bool = False
) -> None:
    """The same of what the audits read, with the tokenizer and the length of what the model can see.

    Raises ``RecipeError`` too where stages would leave a model that cannot be written.
    """
    scored, subject = loaded.adapter.encode, loaded.adapter.subject(loaded.model)
    prompted = subject.check_prompt if isinstance(subject, ChecksPrompts) else lambda row, place, _: scored(row, place)
    _try_all_audits(recipe, rows, _Silent(scored, prompted), allow_imports)
    if recipe.stages:
        _try_writing(loaded)


def _try_writing(loaded: Loaded) -> None:
    """Writes what stands beside the weights of a trained model, somewhere else."""
    if not isinstance(loaded.adapter, WritesConfig):
        return
    with TemporaryDirectory() as folder:
        try:
            loaded.adapter.write_config(loaded.model, Path(folder))
        except Exception as error:  # the tokenizer's own code
            cause = error.__cause__ if isinstance(error, Unwritable) and error.__cause__ is not None else error
            if _of_the_disk(cause):  # of this one, which says nothing of the run folder's
                return
            raise RecipeError(
                "model.pretrained: no trained model could be written, since the config or the tokenizer of this one"
                f" cannot be saved ({type(cause).__name__}: {str(cause).rstrip('.')}); name a model that"
                " save_pretrained can write."
            ) from error


def _of_the_disk(error: BaseException) -> bool:
    """Whether a file could not be written, rather than one that the tokenizer was read from be found."""
    missing = isinstance(error, FileNotFoundError)
    return not missing and (isinstance(error, OSError) or "(os error " in str(error))  # tokenizers' own kind


def _try_all_audits(recipe: Recipe, rows: Mapping[str, Sequence[Row]], subject: _Silent, allow_imports: bool) -> None:
    audits = {"audits": recipe.audits}
    stages = {f"stages.{i}": stage for i, stage in enumerate(recipe.stages)}
    stages |= {f"variants.{v}.{i}": stage for v, own in recipe.variants.items() for i, stage in enumerate(own)}
    audits |= {f"{place}.watch.audits": stage.watch.audits for place, stage in stages.items() if stage.watch}
    tried: set[tuple[str, str]] = set()  # stages mostly watch the same, and to read a role's rows takes its time
    for place, own in audits.items():
        _try_audits(own, place, subject, rows, allow_imports, tried)


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
    tried: set[tuple[str, str]],
) -> None:
    """Every audit of every role that is not among ``tried``, as (role, audit), and then is."""
    for role, own in compile_audits_of(audits, place, allow_imports=allow_imports).items():
        for name, spec, audit in zip(audit_names(audits[role]), audits[role], own, strict=True):
            if (role, repr(spec)) in tried:
                continue
            tried.add((role, repr(spec)))
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

    scored: Callable[[Row, str], object]
    prompted: Callable[[Row, str, int], object]

    def _look(self, rows: Sequence[Row], check: Callable[[Row, str], object]) -> None:
        for number, row in enumerate(rows, 1):
            try:
                check(row, f"row {number}")
            except ValueError as error:
                raise Unmeasurable(str(error)) from None

    def _stop(self, rows: Sequence[Row], check: Callable[[Row, str], object]) -> NoReturn:
        self._look(rows, check)
        raise _Asked

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Of an audit that trains on ``rows`` before it asks."""
        self._look(rows, self.scored)

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
        self._stop(rows, partial(self._prompted, max_new_tokens))

    def sample(
        self, rows: Sequence[Row], max_new_tokens: int, *, count: int, seeds: Sequence[int], temperature: float = 1.0
    ) -> NoReturn:
        """Needs prompts."""
        self._stop(rows, partial(self._prompted, max_new_tokens))

    def _prompted(self, max_new_tokens: int, row: Row, place: str) -> None:
        self.prompted(row, place, max_new_tokens)

    def truncate(self, texts: Sequence[str], tokens: int) -> NoReturn:
        """Only a tokenizer can."""
        raise _Asked
