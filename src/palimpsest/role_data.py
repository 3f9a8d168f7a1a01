"""The rows of a recipe's roles: files, zoo data, other roles' rows rewritten, unions, mixes, and paired roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from palimpsest.audit import Row
from palimpsest.augment import Augment
from palimpsest.data import load_rows, located, row_digest, row_key
from palimpsest.mix import check_shares, mixed
from palimpsest.procedure import Rewrite, takes
from palimpsest.recipe import Recipe, RecipeError, keys, short, suggest, validated
from palimpsest.recipe_parts import compile_part
from palimpsest.roles import Answers, Derived

__all__ = [
    "check_audited_roles",
    "check_audits",
    "check_roles",
    "fingerprints",
    "load_roles",
    "parts_of",
    "sources_of",
]

KEYS = {
    "file": ("file", "columns", "rows"),
    "rewrite": ("rewrite", "of"),
    "mix": ("mix", "rows", "tokens", "seed"),
    "answers": ("answers", "to", "column"),
    "augment": ("augment", "of"),
}
"""Kind of role -> its keys; those of the zoo are the zoo's."""
PAIRED = {"answers": "to", "augment": "of"}
"""Kinds of roles that are paired with another item by item, and the key that names it."""
MOST = 10**9  # rows of a mix stand in memory


def _kind(spec: Any, place: str) -> str:
    """How a role is given: file, zoo, rewrite, union, mix, answers or augment."""
    if isinstance(spec, str) and spec.strip():
        return "file"
    if isinstance(spec, list) and spec and all(isinstance(r, str) for r in spec):
        return "union"
    if isinstance(spec, dict):
        for kind in ("file", "zoo", "rewrite", "mix", *PAIRED):
            if kind in spec:
                return kind
    raise RecipeError(
        f"{place}: give a file, {{file: …}}, {{zoo: …}}, {{rewrite: …, of: role}}, {{mix: …, rows: …}}, {{answers: …,"
        f" to: role}}, {{augment: …, of: role}} or a list of roles, not {short(spec)}."
    )


def parts_of(spec: Any) -> list[str]:
    """The roles that a union, a mix, a rewritten or a paired role is made of; none for any other role."""
    if isinstance(spec, dict):
        mixed_in = [role for role, share in spec["mix"].items() if share] if "mix" in spec else []
        paired = paired_with(spec)
        return [spec["of"]] if "rewrite" in spec else [paired] if paired is not None else mixed_in
    return list(spec) if isinstance(spec, list) else []


def sources_of(role: str, roles: Mapping[str, Any]) -> set[str]:
    """The role itself and all that it is made of, however often they were made of others."""
    return {role}.union(*(sources_of(part, roles) for part in parts_of(roles.get(role))))


def paired_with(spec: Any) -> str | None:
    """The role that a role is made from item by item, or None where it has rows of its own."""
    found = [spec.get(key) for kind, key in PAIRED.items() if kind in spec] if isinstance(spec, dict) else []
    return str(found[0]) if found else None


def check_roles(recipe: Recipe, *, allow_imports: bool = False) -> None:
    """What can be known of the roles without reading any data."""
    if not recipe.roles:
        raise RecipeError("roles: a recipe needs data; give at least one role.")
    for role, spec in recipe.roles.items():
        shown = short(role, quoted=False)
        place = f"roles.{shown}"
        if not role.strip() or "/" in role or not role.isprintable() or len(role) > 80:
            raise RecipeError(f"{place}: a role's name has at most 80 printable characters and no /; rename it.")
        kind = _kind(spec, place)
        allowed = KEYS.get(kind)
        unknown = [k for k in spec if k not in allowed] if isinstance(spec, dict) and allowed else []
        if unknown:
            key = short(unknown[0], quoted=False)
            raise RecipeError(f"{place}.{key}: there is no such key; {suggest(str(unknown[0]), allowed or ())}")
        _check_values(kind, spec, place, allow_imports)
        if kind == "mix":
            _check_mix(spec, place, recipe)
        named = list(spec if kind == "union" else spec["mix"] if kind == "mix" else [])
        named += [spec[PAIRED[kind]]] if kind in PAIRED else [spec["of"]] if kind == "rewrite" else []
        for other in named:
            if other not in recipe.roles or other == role:
                known = [r for r in recipe.roles if r != role]
                raise RecipeError(f"{place}: {short(other)} is no other role; {suggest(other, known)}")
            inner = _kind(recipe.roles[other], f"roles.{other}")
            if inner in ("union", "mix", *PAIRED) or kind == inner == "rewrite":
                raise RecipeError(f"{place}: {other!r} is itself made of roles; name the roles with data instead.")
        if len(set(named)) != len(named):
            raise RecipeError(f"{place}: a role stands in this list twice; name each once.")


def _check_values(kind: str, spec: Any, place: str, allow_imports: bool) -> None:
    """The types of a role's values."""
    if not isinstance(spec, dict):
        return
    texts = {"file": ("file",), "answers": ("to", "column"), "augment": ("of",), "rewrite": ("of",)}.get(kind, ())
    for key in texts:
        if (key in spec or key in PAIRED.values()) and not (isinstance(spec.get(key), str) and spec[key]):
            raise RecipeError(f"{place}.{key}: give a text, not {short(spec.get(key))}.")
    columns, rows, answers = spec.get("columns"), spec.get("rows"), spec.get("answers")
    if kind == "file" and columns is not None:
        pairs = [*columns, *columns.values()] if isinstance(columns, dict) else []
        if not pairs or not all(isinstance(c, str) for c in pairs):
            raise RecipeError(f"{place}.columns: write {{wanted: column of the file}}, not {short(columns)}.")
    if kind == "file" and rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise RecipeError(f"{place}.rows: give a whole number of at least 1, not {short(rows)}.")
    if kind == "answers" and not (isinstance(answers, (str, list)) and answers):
        raise RecipeError(f"{place}.answers: give a list of answers, a file, or refusals, not {short(answers)}.")
    if kind == "augment":
        _augment(spec["augment"], f"{place}.augment")
    if kind == "rewrite":
        _rewrite(spec["rewrite"], f"{place}.rewrite", allow_imports)


def _check_mix(spec: Mapping[str, Any], place: str, recipe: Recipe) -> None:
    """The shares and the total of a mix."""
    shares = spec["mix"]
    if not (isinstance(shares, dict) and shares and all(isinstance(role, str) for role in shares)):
        raise RecipeError(f"{place}.mix: write the share of each role, {{role: 0.05, …}}, not {short(shares)}.")
    try:
        check_shares(shares)
    except ValueError as error:
        raise RecipeError(f"{place}.mix: {error}") from None
    if ("rows" in spec) == ("tokens" in spec):
        raise RecipeError(f"{place}: a mix has a total of rows or of tokens; give one of the two.")
    for key, least in (("rows", 1), ("tokens", 1), ("seed", 0)):
        value = spec.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise RecipeError(f"{place}.{key}: give a whole number from {least} to {MOST}, not {short(value)}.")
    if "tokens" in spec and recipe.model.adapter != "causal_lm":
        raise RecipeError(f"{place}.tokens: only rows of a language model have tokens; give rows.")


def check_audits(recipe: Recipe, runs: Sequence[str]) -> None:
    """Whether every audit has data, and every expectation an audit and a run of ``runs``."""
    check_audited_roles(recipe.audits, "audits", recipe)
    known = [f"{role}/{name}" for role, specs in recipe.audits.items() for name in audit_names(specs)]
    if not known:
        raise RecipeError("audits: a run without measurements reports nothing; name an audit of a role.")
    for key, wanted in recipe.expect.items():
        place = f"expect.{short(key, quoted=False)}"
        if key not in known:
            raise RecipeError(f"{place}: nothing measures this; {suggest(key, known)}")
        _check_expectation(wanted, place, runs)


def check_audited_roles(audits: Mapping[str, Sequence[Any]], place: str, recipe: Recipe) -> None:
    """Whether every role that is measured, at the end or on the way, has data, and every audit is named once."""
    for role, specs in audits.items():
        here = f"{place}.{short(role, quoted=False)}"
        if role not in recipe.roles:
            raise RecipeError(f"{here}: this role has no data; {suggest(role, list(recipe.roles))}")
        if _kind(recipe.roles[role], role) in PAIRED:
            raise RecipeError(f"{here}: this role is drawn afresh in every round; audit the role it belongs to.")
        names = audit_names(specs)
        twice = [a for a in names if names.count(a) > 1]
        if twice:
            raise RecipeError(f"{here}: {twice[0]} is listed twice; keep one.")


def _check_expectation(wanted: Any, place: str, runs: Sequence[str]) -> None:
    from palimpsest.verdict import parse_expectation

    try:
        expectation = parse_expectation(wanted, place)
    except (ValueError, TypeError, OverflowError) as error:
        text = str(error)
        raise RecipeError(text if text.startswith(place) else f"{place}: {text}; write a plain value.") from None
    if expectation.reference and expectation.reference not in runs:
        name = expectation.reference
        baseline = "; add the baseline retrain" if name == "retrained" else ""
        raise RecipeError(f"{place}: no run is called {short(name)}{baseline}; {suggest(name, runs)}")


def audit_names(specs: Sequence[Any]) -> list[str]:
    """The audits' names, as scores carry them."""
    return [spec if isinstance(spec, str) else str(next(iter(spec), "")) for spec in specs]


def load_roles(
    recipe: Recipe, folder: Path | None = None, base: Path | None = None
) -> tuple[dict[str, list[Row]], dict[str, Answers | Derived]]:
    """Rows by role, and the roles made from others. Relative files are looked up from ``folder``.

    ``base`` is where the model lies, if that is known, whose tokens are counted in mixes. Raises ``RecipeError``.
    """
    rows: dict[str, list[Row]] = {}
    answers: dict[str, Answers | Derived] = {}
    for role, spec in recipe.roles.items():
        place = f"roles.{role}"
        try:
            kind = _kind(spec, place)
            if kind == "answers":
                answers[role] = _answers(spec, folder)
            elif kind == "augment":
                answers[role] = Derived(spec["of"], _augment(spec["augment"], f"{place}.augment"))
            elif kind not in ("rewrite", "union", "mix"):
                rows[role] = _rows(kind, spec, place, folder)
        except (ValueError, LookupError, TypeError, OverflowError, OSError, ImportError) as error:
            text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
            raise RecipeError(text if text.startswith(place) else f"{place}: {text}") from None
    for role, spec in recipe.roles.items():
        if isinstance(spec, dict) and "rewrite" in spec:
            rows[role] = _rewritten(spec, f"roles.{role}", rows[spec["of"]])
    for role, spec in recipe.roles.items():
        if isinstance(spec, list):
            rows[role] = [row for other in spec for row in rows[other]]
        elif isinstance(spec, dict) and "mix" in spec:
            rows[role] = _mix(spec, f"roles.{role}", rows, recipe, base)
    for role, found in rows.items():
        _refuse_twins(role, found)
    return {role: rows[role] for role in recipe.roles if role in rows}, answers


def _rows(kind: str, spec: Any, place: str, folder: Path | None) -> list[Row]:
    if kind == "zoo":
        from palimpsest import zoo

        return zoo.load(spec, place=place)
    options: dict[str, Any] = {"file": spec} if isinstance(spec, str) else spec
    return load_rows(options["file"], columns=options.get("columns"), rows=options.get("rows"), folder=folder)


def _rewrite(spec: Any, place: str, allow_imports: bool) -> Rewrite:
    """What makes a role's rows of another's."""
    rewrite: Rewrite = compile_part(spec, "procedures", place, allow_imports=allow_imports)
    if not (is_dataclass(rewrite) and takes(rewrite, "rows")):
        raise RecipeError(f"{place}: {short(spec)} does not rewrite rows; name a procedure that does: answer_styles.")
    return rewrite


def _rewritten(spec: Mapping[str, Any], place: str, rows: Sequence[Row]) -> list[Row]:
    try:
        return _rewrite(spec["rewrite"], f"{place}.rewrite", True)(rows)  # what is not allowed was refused before
    except ValueError as error:
        raise RecipeError(f"{place}: {error}") from None


def _mix(
    spec: Mapping[str, Any], place: str, rows: Mapping[str, Sequence[Row]], recipe: Recipe, base: Path | None
) -> list[Row]:
    try:
        own = {role: rows[role] for role in parts_of(spec)}
        count = _token_counter(recipe, own, base) if "tokens" in spec else None
        return mixed(
            rows, spec["mix"], rows=spec.get("rows"), tokens=spec.get("tokens"), count=count, seed=spec.get("seed", 0)
        )
    except RecipeError:  # of the model, whose place it names
        raise
    except ValueError as error:
        raise RecipeError(f"{place}: {error}") from None


def _token_counter(recipe: Recipe, rows: Mapping[str, Sequence[Row]], base: Path | None) -> Callable[[Row], int]:
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


def _refuse_twins(role: str, rows: Sequence[Row]) -> None:
    """Ids pair the items of two runs, so one id cannot stand for two rows."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if "id" in row and seen.setdefault(str(row["id"]), number) != number:
            raise RecipeError(
                f"roles.{role}: the rows {seen[str(row['id'])]} and {number} have the same id, {short(str(row['id']))};"
                " ids pair the runs, so give each row its own."
            )


def fingerprints(rows: Mapping[str, Sequence[Row]], answers: Mapping[str, Answers | Derived]) -> dict[str, str]:
    """A digest of each role's rows, by which a run folder knows its data again."""
    found = {role: row_digest({"rows": [row_digest(row) for row in own]}) for role, own in rows.items()}
    drawn = {role: row_digest({f.name: getattr(a, f.name) for f in fields(a)}) for role, a in answers.items()}
    return found | drawn


def _answers(spec: Mapping[str, Any], folder: Path | None) -> Answers:
    column = spec.get("column", "completion")
    given = spec["answers"]
    if given == "refusals":
        from palimpsest.zoo.values import REFUSALS

        values: list[Any] = list(REFUSALS)
    elif isinstance(given, list):
        values = given
    else:
        values = _answer_file(str(given), column, folder)
    return Answers(spec["to"], column, tuple(values))


def _augment(given: Any, place: str) -> Augment:
    unknown = [k for k in given if k not in keys(Augment)] if isinstance(given, dict) else []
    if unknown:
        key = short(unknown[0], quoted=False)
        raise RecipeError(f"{place}.{key}: there is no such key; {suggest(str(unknown[0]), keys(Augment))}")
    found: Augment = validated(Augment, given, place)
    return found


def _answer_file(given: str, column: str, folder: Path | None) -> list[Any]:
    """Answers from a file of rows, or from a text file with one answer a line, whatever its name ends in."""
    path = located(given, folder)
    if path.is_file():
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
        if lines and path.suffix in (".txt", ".jsonl") and not lines[0].startswith("{"):
            return list(lines)
    values = [row.get(column) for row in load_rows(given, folder=folder)]
    if any(v is None for v in values):
        raise ValueError(f"{given} has no column {column!r}; name the right one with column.")
    return values
