"""What of a recipe's rows only its tokenizer can tell: how many tokens they have, and where long texts are cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from palimpsest.audit import Row
from palimpsest.data import row_key
from palimpsest.recipe import Recipe, RecipeError, short

__all__ = ["CutsTexts", "check_split", "split_texts", "token_counter"]


@runtime_checkable
class CutsTexts(Protocol):
    """An adapter that makes several rows of one whose text is too long."""

    def pieces(self, row: Row, place: str) -> list[Row]:
        """The row itself where it is short enough. Raises ``ValueError`` for a row without ``text``."""
        ...


def check_split(spec: Mapping[str, Any], place: str, recipe: Recipe) -> None:
    """Whether ``split`` says yes or no, of a language model's rows."""
    if "split" not in spec:
        return
    if not isinstance(spec["split"], bool):
        raise RecipeError(f"{place}.split: write true or false, not {short(spec['split'])}.")
    if spec["split"] and recipe.model.adapter != "causal_lm":
        raise RecipeError(f"{place}.split: only rows of a language model have tokens; remove it.")


def split_texts(recipe: Recipe, rows: Mapping[str, list[Row]], base: Path | None) -> dict[str, list[Row]]:
    """The rows of each role that says ``split``, cut to what the model reads at once, which lies at ``base``.

    Raises ``RecipeError``.
    """
    wanted = [role for role, spec in recipe.roles.items() if isinstance(spec, dict) and spec.get("split")]
    if not wanted:
        return {}
    from palimpsest.loaded import load_model

    adapter = load_model(recipe, base=base).adapter
    assert isinstance(adapter, CutsTexts)  # of a language model, as check_split found
    found: dict[str, list[Row]] = {}
    for role in wanted:
        try:
            pieces = (adapter.pieces(row, f"{role} row {i}") for i, row in enumerate(rows[role], 1))
            found[role] = list(itertools.chain.from_iterable(pieces))
        except ValueError as error:
            raise RecipeError(f"roles.{role}: {error}") from None
    return found


def token_counter(recipe: Recipe, rows: Mapping[str, Sequence[Row]], base: Path | None) -> Callable[[Row], int]:
    """How many tokens of a row the recipe's model is scored on; rows that it cannot read are found before it is loaded.

    Raises ``ValueError``.
    """
    from palimpsest.loaded import load_model, row_checks

    scored, _ = row_checks(recipe.model)
    for role, own in rows.items():
        for number, row in enumerate(own, 1):
            scored(row, f"{role} row {number}")

    adapter = load_model(recipe, base=base).adapter
    return lambda row: adapter.count(adapter.collate([adapter.encode(row, f"row {row_key(row)}")]), "token")
