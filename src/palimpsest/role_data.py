"""The rows of a recipe's roles: files, zoo data, unions of roles, and answers paired with a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.audit import Row
from palimpsest.data import load_rows, row_key
from palimpsest.recipe import Recipe, RecipeError, Stage, suggest
from palimpsest.roles import Answers

__all__ = ["check_roles", "load_roles", "refuse_shared_rows"]

FILE_KEYS = ("file", "columns", "rows")
ANSWER_KEYS = ("answers", "to", "column")


def _kind(spec: Any, place: str) -> str:
    """How a role is given: file, zoo, union or answers."""
    if isinstance(spec, str):
        return "file"
    if isinstance(spec, list) and spec and all(isinstance(r, str) for r in spec):
        return "union"
    if isinstance(spec, dict):
        for key, kind in (("file", "file"), ("zoo", "zoo"), ("answers", "answers")):
            if key in spec:
                return kind
    raise RecipeError(
        f"{place}: give a file, {{file: …}}, {{zoo: …}}, {{answers: …, to: role}} or a list of roles, not"
        f" {str(spec)[:60]!r}."
    )


def check_roles(recipe: Recipe) -> None:
    """What can be known of the roles, audits and expectations without reading any data."""
    from palimpsest.verdict import parse_expectation

    if not recipe.roles:
        raise RecipeError("roles: a recipe needs data; give at least one role.")
    for role, spec in recipe.roles.items():
        place = f"roles.{role}"
        kind = _kind(spec, place)
        allowed = {"file": FILE_KEYS, "answers": ANSWER_KEYS}.get(kind)
        unknown = [k for k in spec if k not in allowed] if isinstance(spec, dict) and allowed else []
        if unknown:
            raise RecipeError(f"{place}.{unknown[0]}: there is no such key; {suggest(str(unknown[0]), allowed or ())}.")
        named = spec if kind == "union" else [spec.get("to")] if kind == "answers" else []
        for other in named:
            if other not in recipe.roles or other == role:
                raise RecipeError(
                    f"{place}: {other!r} is no other role;"
                    f" {suggest(str(other), [r for r in recipe.roles if r != role])}."
                )
            if _kind(recipe.roles[other], f"roles.{other}") in ("union", "answers"):
                raise RecipeError(f"{place}: {other!r} is itself made of roles; name the roles with data instead.")
    for role, specs in recipe.audits.items():
        if role not in recipe.roles:
            raise RecipeError(f"audits.{role}: this role has no data; {suggest(role, list(recipe.roles))}.")
        if _kind(recipe.roles[role], role) == "answers":
            raise RecipeError(f"audits.{role}: answers are drawn afresh in every round; audit the role they belong to.")
        audits = audit_names(specs)
        twice = [a for a in audits if audits.count(a) > 1]
        if twice:
            raise RecipeError(f"audits.{role}: {twice[0]} is listed twice; keep one.")
    known = [f"{role}/{name}" for role, specs in recipe.audits.items() for name in audit_names(specs)]
    for key, wanted in recipe.expect.items():
        if key not in known:
            raise RecipeError(f"expect.{key}: nothing measures this; {suggest(key, known)}.")
        try:
            parse_expectation(wanted, f"expect.{key}")
        except (ValueError, TypeError) as error:
            raise RecipeError(str(error)) from None


def audit_names(specs: Sequence[Any]) -> list[str]:
    """The audits' names, as scores carry them."""
    return [spec if isinstance(spec, str) else str(next(iter(spec), "")) for spec in specs]


def load_roles(recipe: Recipe, folder: Path | None = None) -> tuple[dict[str, list[Row]], dict[str, Answers]]:
    """Rows by role, and the roles of answers. Relative files are looked up from ``folder``."""
    rows: dict[str, list[Row]] = {}
    answers: dict[str, Answers] = {}
    for role, spec in recipe.roles.items():
        place = f"roles.{role}"
        kind = _kind(spec, place)
        try:
            if kind == "file":
                options: dict[str, Any] = {"file": spec} if isinstance(spec, str) else spec
                rows[role] = load_rows(
                    options["file"], columns=options.get("columns"), rows=options.get("rows"), folder=folder
                )
            elif kind == "zoo":
                from palimpsest import zoo

                rows[role] = zoo.load(spec, place=place)
            elif kind == "answers":
                answers[role] = _answers(spec, folder)
        except (ValueError, LookupError, TypeError) as error:
            text = str(error)
            raise RecipeError(text if text.startswith(place) else f"{place}: {text}") from None
    for role, spec in recipe.roles.items():
        if _kind(spec, role) == "union":
            rows[role] = [row for other in spec for row in rows[other]]
    for role, found in rows.items():
        keys = [row_key(row) for row in found]
        if len(set(keys)) != len(keys):
            twice = next(k for i, k in enumerate(keys) if k in keys[:i])
            raise RecipeError(f"roles.{role}: the row {twice!r} occurs twice; ids pair the runs, so keep one.")
    return {role: rows[role] for role in recipe.roles if role in rows}, answers


def _answers(spec: Mapping[str, Any], folder: Path | None) -> Answers:
    column = spec.get("column", "completion")
    given = spec["answers"]
    if given == "refusals":
        from palimpsest import zoo

        values: list[Any] = [row["completion"] for row in zoo.load({"zoo": "refusals"})]
    elif isinstance(given, list):
        values = given
    else:
        values = _answer_file(str(given), column, folder)
    return Answers(spec["to"], column, tuple(values))


def _answer_file(given: str, column: str, folder: Path | None) -> list[Any]:
    """Answers from a file of rows, or from a text file with one answer a line, whatever its name ends in."""
    path = Path(given).expanduser()
    if not path.is_absolute() and folder is not None and (folder / path).exists():
        path = folder / path
    if path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if lines and path.suffix in (".txt", ".jsonl") and not lines[0].startswith("{"):
            return list(lines)
    values = [row.get(column) for row in load_rows(given, folder=folder)]
    if any(v is None for v in values):
        raise ValueError(f"{given} has no column {column!r}; name the right one with column.")
    return values


def training_roles(stages: Sequence[Stage], roles: Mapping[str, Any]) -> set[str]:
    """The roles with data that some stage trains on, with unions taken apart."""
    used: set[str] = set()
    for stage in stages:
        for term in stage.objective:
            named = term.get("on", [])
            for role in [named] if isinstance(named, str) else named:
                spec = roles.get(role)
                used.add(role)
                if isinstance(spec, list):
                    used.update(spec)
                elif isinstance(spec, dict) and "to" in spec:
                    used.add(spec["to"])
    return used


def refuse_shared_rows(recipe: Recipe, rows: Mapping[str, Sequence[Row]]) -> None:
    """An audit on a role that is not trained on must not hold rows that are: it would measure memory, not ability."""
    stages = [*recipe.stages, *(s for stages in recipe.variants.values() for s in stages)]
    trained = training_roles(stages, recipe.roles)
    seen = {row_key(row): role for role in trained for row in rows.get(role, ())}
    for role in recipe.audits:
        if role in trained or isinstance(recipe.roles[role], list):
            continue
        shared = [row_key(row) for row in rows[role] if row_key(row) in seen]
        if shared:
            raise RecipeError(
                f"audits.{role}: {len(shared)} of its rows, such as {shared[0]!r}, also stand in the training role "
                f"{seen[shared[0]]!r}; take them out of one of the two."
            )
