"""Where a recipe comes from: a YAML file, a Python file or plain data, and the values that ``--set`` replaces."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palimpsest.recipe import STAGE_KEYS, Recipe, RecipeError, keys, plain, short, suggest, validated
from palimpsest.recipe_check import can_name_folder, check
from palimpsest.yaml_text import NotYaml, dump, parse

__all__ = ["load_recipe", "parse_recipe"]

MOST_VALUES = 100_000
"""A recipe with more values than this is a mistake, or an alias that multiplies itself."""


def load_recipe(
    path: Path, overrides: Sequence[str] = (), *, allow_imports: bool = False, audit_only: bool = False
) -> Recipe:
    """Reads a recipe from YAML, or from a Python file with ``def recipe() -> Recipe`` when imports are allowed.

    YAML without a ``name`` has that of its file, where it can be a folder's.  ``audit_only`` drops everything that
    trains, so that the model is measured as it is.  Raises ``RecipeError``.
    """
    raw = read(path, allow_imports)
    if isinstance(raw, dict) and can_name_folder(path.stem):
        raw = {"name": path.stem, **raw}
    return parse_recipe(raw, overrides, allow_imports=allow_imports, audit_only=audit_only)


def parse_recipe(
    raw: Any, overrides: Sequence[str] = (), *, allow_imports: bool = False, audit_only: bool = False
) -> Recipe:
    """A checked recipe from plain data, such as ``yaml.safe_load`` gives. Raises ``RecipeError``."""
    if not isinstance(raw, dict):
        what = "empty" if raw is None else f"a {type(raw).__name__}"
        raise RecipeError(f"A recipe is a mapping with the keys {', '.join(keys(Recipe))}; this is {what}.")
    data = copied(raw)
    for text in overrides:
        override(data, text)
    data = _with_stages(data)
    if audit_only:
        trains = ("tasks", "chance", "variants", "baselines", "expect", "seeds")
        data = {k: v for k, v in data.items() if k not in trains} | {"stages": []}
    recipe: Recipe = validated(Recipe, data)
    check(recipe, allow_imports=allow_imports, audit_only=audit_only)
    return recipe


def _with_stages(data: dict[Any, Any]) -> dict[Any, Any]:
    """A recipe of one stage may write the stage's keys at the top; a variant of one stage may leave out the list."""
    own = {k: data.pop(k) for k in STAGE_KEYS if k in data}
    if own:
        if "stages" in data:
            raise RecipeError(f"{sorted(own)[0]}: write it inside a stage, since this recipe lists its stages.")
        data["stages"] = [{"name": "train", **own}]
    variants = data.get("variants")
    if isinstance(variants, dict):
        data["variants"] = {k: v if isinstance(v, list) else [v] for k, v in variants.items()}
        for label, stages in data["variants"].items():
            data["variants"][label] = [{"name": str(label), **s} if isinstance(s, dict) else s for s in stages]
    return data


def read(path: Path, allow_imports: bool = False) -> Any:
    """The plain data in a file, unchecked; a Python file is run only when imports are allowed."""
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; name the YAML file in it.")
    if not path.is_file():
        raise RecipeError(f"There is no recipe {path}; check the path and name a YAML file.")
    if path.suffix == ".py":
        if not allow_imports:
            raise RecipeError(f"{path} is Python, which runs only with --allow-imports; add that flag if you trust it.")
        return _from_python(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except NotYaml as error:
        where = f" line {error.line}" if error.line is not None else ""
        raise RecipeError(f"{path}{where}: this is not YAML ({error.reason}); correct it.") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise RecipeError(f"{path} could not be read ({error.strerror or error}); check its permissions.") from None


def _from_python(path: Path) -> Any:
    """What ``recipe()`` of a Python file returns, as plain data, so that it is checked like any other."""
    import runpy

    try:
        maker = runpy.run_path(str(path)).get("recipe")
        made = maker() if callable(maker) else None
    except RecipeError:  # it says what is missing
        raise
    except Exception as error:  # whatever the user's own code raises; its line helps more than our frames
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = "" if line is None else f" line {line}"
        raise RecipeError(f"{path}{where}: {type(error).__name__} ({error}); correct the Python code.") from error
    if not callable(maker):
        raise RecipeError(f"{path} defines no recipe(); write def recipe() -> Recipe.")
    if not isinstance(made, Recipe):
        raise RecipeError(f"{path}: recipe() returned {type(made).__name__}, not a Recipe; return a Recipe.")
    try:
        return parse(dump(plain(made)))
    except ValueError as error:
        raise RecipeError(f"{path}: {error}; use plain values.") from None


def copied(value: Any) -> Any:
    """A deep copy of plain data, with aliases written out; refuses data without end.

    A key that is true or false is the word ``on`` or ``off`` again, which YAML 1.1 (PyYAML's own loaders) reads so.
    """
    left = [MOST_VALUES]

    def copy(value: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RecipeError(f"A recipe has at most {MOST_VALUES:,} values; write the data of a role to a file.")
        if isinstance(value, dict):
            return {("on" if k else "off") if isinstance(k, bool) else k: copy(v) for k, v in value.items()}
        return [copy(v) for v in value] if isinstance(value, list) else value

    try:
        return copy(value)
    except RecursionError:
        raise RecipeError("A recipe is nested too deeply, or holds itself by an alias; write it out.") from None


def override(data: dict[Any, Any], text: str) -> None:
    """``--set a.0.b=value`` with the value in YAML, in place; a part that is not there yet is made on the way."""
    path, equals, value = text.partition("=")
    said = f"--set {short(text, quoted=False)}"
    if not equals or not path:
        raise RecipeError(f"{said}: write it as place=value, such as objective.0.npo.beta=0.2.")
    try:
        new = parse(value)
    except NotYaml as error:
        raise RecipeError(f"{said}: the value is not YAML ({error.reason}); correct it.") from None
    parts = path.split(".")
    here: Any = data
    for depth, part in enumerate(parts[:-1]):
        key = _key(here, part, ".".join(parts[: depth + 1]), said, new=False)
        if (here.get(key) if isinstance(here, dict) else here[key]) is None:  # not there, or as in a bare `train:`
            here[key] = {}
        here = here[key]
    here[_key(here, parts[-1], path, said, new=True)] = new


def _key(here: Any, part: str, at: str, said: str, *, new: bool) -> Any:
    """What ``part`` of a place means in ``here``; only the last part may be ``new``."""
    if isinstance(here, list):
        if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(here)):
            raise RecipeError(f"{said}: {at} is no entry of a list of {len(here)}; count from 0.")
        return int(part)
    if not isinstance(here, dict):
        raise RecipeError(f"{said}: {at.rpartition('.')[0]} is a value, so it has no {part}; set the value itself.")
    known = {str(k): k for k in here}
    if part not in known and not new and not _may_be_made(at, list(known)):
        raise RecipeError(f"{said}: the recipe has no {at}; {suggest(part, list(known))}")
    return known.get(part, part)


def _may_be_made(at: str, known: Sequence[str]) -> bool:
    """Whether a part that a place leads through was left out, rather than being a slip in naming one of ``known``.

    What a recipe may hold is checked later; but a role that is not there would be another one, and says nothing.
    """
    home, _, part = at.rpartition(".")
    if not home:
        return part in keys(Recipe)
    return home not in ("roles", "variants") and not suggest(part, known).startswith("did you mean")
