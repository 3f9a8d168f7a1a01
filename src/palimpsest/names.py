"""File name -> class: the whole registry.

A method is found by the name of its file.  Every method file sets ``METHOD`` to its public class (or
function), and nothing else has to be written down anywhere: the folder is its noun, the file name is its
name in a recipe.

    resolve("npo")            -> palimpsest.objectives.npo.NPO
    resolve("pkg.mod:Class")  -> a class of yours, only with allow_imports=True
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from palimpsest.own_code import line_of

__all__ = ["FAMILIES", "UnknownName", "build", "dump", "families", "fields_of", "names", "resolve"]

FAMILIES = (
    "objectives",
    "edits",
    "masks",
    "interventions",
    "selectors",
    "audits",
    "optim",
    "schedules",
    "layers",
    "laws",
    "procedures",
    "baselines",
)
"""The folders whose files are methods; a folder that does not exist yet holds no names."""


class UnknownName(LookupError):
    """A name that no method file carries; the message suggests the nearest ones."""


@cache
def families() -> dict[str, dict[str, str]]:
    """Family -> {name: module path}, read from the folders without importing a method."""
    found: dict[str, dict[str, str]] = {}
    root = Path(__file__).parent
    for family in FAMILIES:
        folder = root / family
        modules = pkgutil.iter_modules([str(folder)]) if folder.is_dir() else ()
        found[family] = {m.name: f"palimpsest.{family}.{m.name}" for m in modules if not m.name.startswith("_")}
    return found


def names(family: str | None = None) -> dict[str, str]:
    """Name -> module path of one family, or of all of them together."""
    if family is not None:
        return dict(families().get(family, {}))
    return {name: path for members in families().values() for name, path in members.items()}


def resolve(name: str, family: str | None = None, *, allow_imports: bool = False) -> Any:
    """The class (or function) that a recipe's name stands for.

    Raises ``UnknownName`` with the nearest names when no file carries it, and when a third-party
    ``package.module:Class`` is named without ``allow_imports``.
    """
    if ":" in name:
        if not allow_imports:
            raise UnknownName(
                f"{name!r} names code outside Palimpsest, which a recipe may load only with --allow-imports; "
                "add that flag if you trust the recipe."
            )
        module, _, attribute = name.partition(":")
        if module.endswith(".py") or "/" in module:
            own = f"{Path(module).stem}:{attribute}"
            raise UnknownName(f"{name!r} names a file; write {own}, a module on PYTHONPATH or beside the recipe.")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            if line_of(error) is not None:  # of code in the module
                raise
            raise UnknownName(f"{name!r} could not be loaded ({error}); write it as package.module:Class.") from error
    table = names(family)
    if name not in table:
        kind = "method" if family is None else family.removesuffix("s")
        close = difflib.get_close_matches(name, table, 3, 0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are: {', '.join(sorted(table))}."
        raise UnknownName(f"There is no {kind} {name!r}; {hint}")
    return importlib.import_module(table[name]).METHOD


def fields_of(name: str, family: str | None = None) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a method that a recipe may set; a function has none. Raises ``UnknownName``."""
    method = resolve(name, family)
    if isinstance(method, type) and not dataclasses.is_dataclass(method):
        method = _settings_of(method)
    return tuple(f for f in dataclasses.fields(method) if f.init) if dataclasses.is_dataclass(method) else ()


def build(
    spec: str | dict[str, Any], family: str | None = None, *, place: str = "", allow_imports: bool = False
) -> Any:
    """A method from a recipe's ``name`` or ``{name: {field: value}}``, its fields checked by their types.

    ``place`` is the recipe path that an error names, such as ``objective.0``.
    """
    from pydantic import TypeAdapter, ValidationError

    at = f"{place}: " if place else ""
    name, fields = _name_and_fields(spec, at)
    try:
        method = resolve(name, family, allow_imports=allow_imports)
    except UnknownName as error:
        raise UnknownName(f"{at}{error}") from None
    if isinstance(method, type) and not dataclasses.is_dataclass(method):
        method = _settings_of(method)
    if not dataclasses.is_dataclass(method):
        if fields:
            raise ValueError(f"{at}{name} has no fields; remove {sorted(map(str, fields))}.")
        return method
    known = [f.name for f in dataclasses.fields(method) if f.init]
    unknown = [str(k) for k in fields if k not in known]
    if unknown:
        takes = f"it has: {', '.join(known)}" if known else "it has no fields"
        raise ValueError(f"{at}{name} has no field {unknown[0]!r}; {takes}.")
    inside = ".".join([*([place] if place else []), name])
    fields = {k: _built_inside(method, k, v, f"{inside}.{k}", allow_imports) for k, v in fields.items()}
    try:
        return TypeAdapter(method).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([*([place] if place else []), name, *map(str, first["loc"])])
        raise ValueError(
            f"{where}: {first['msg'].removeprefix('Value error, ')} (given: {first['input']!r})."
        ) from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{at}{name}: {error}") from None


def _name_and_fields(spec: object, at: str) -> tuple[str, dict[str, Any]]:
    """What a recipe's ``name`` or ``{name: {field: value}}`` says."""
    if isinstance(spec, dict):
        if len(spec) != 1:
            raise ValueError(
                f"{at}name one method here, as {{name: {{…}}}}; there are {len(spec)}: {sorted(map(str, spec))}."
            )
        name, fields = next(iter(spec.items()))
    else:
        name, fields = spec, None
    if not isinstance(name, str):
        raise ValueError(f"{at}a method's name is text, not {name!r}.")
    if not isinstance(fields, dict | None):
        raise ValueError(f"{at}{name} takes its fields as {{field: value}}, not {fields!r}.")
    return name, fields or {}


@cache
def _settings_of(method: type) -> type:
    """The settings of an optimizer as a frozen dataclass; any other class as it is.

    Its fields are the class's keyword-only arguments, and what they are refused for is refused here.  Called with the
    other arguments, such as (parameters, lr=, weight_decay=), it makes the optimizer.
    """
    import torch
    from torch.optim import Optimizer

    if not issubclass(method, Optimizer):
        return method
    constructor: Any = method
    arguments = inspect.signature(method.__init__, eval_str=True).parameters.values()
    own = [a for a in arguments if a.kind is a.KEYWORD_ONLY and a.default is not a.empty]

    def call(self: Any, *positional: Any, **named: Any) -> Optimizer:
        made: Optimizer = constructor(*positional, **named, **{a.name: getattr(self, a.name) for a in own})
        return made

    def check(self: Any) -> None:
        call(self, [torch.nn.Parameter(torch.zeros(0))])  # the constructor's own checks

    return dataclasses.make_dataclass(
        method.__qualname__,
        [(a.name, a.annotation, dataclasses.field(default=a.default)) for a in own],
        frozen=True,
        namespace={"__call__": call, "__post_init__": check, "__module__": method.__module__},
    )


def _built_inside(method: Any, field: str, value: Any, place: str, allow_imports: bool) -> Any:
    """The value of a field; where the field is an objective, that objective from its spec."""
    from palimpsest.objective import Objective

    if not isinstance(value, str | dict) or get_type_hints(method).get(field) is not Objective:
        return value
    return build(value, "objectives", place=place, allow_imports=allow_imports)


def _dumped_inside(value: Any) -> Any:
    """The recipe form of a field's value."""
    from palimpsest.objective import Objective

    return dump(value) if isinstance(value, Objective) else value


def dump(method: Any) -> dict[str, dict[str, Any]]:
    """The recipe form of a method: ``build(dump(m)) == m``."""
    cls = type(method)
    short = cls.__module__.rsplit(".", 1)[-1]
    name = short if cls.__module__.startswith("palimpsest.") else f"{cls.__module__}:{cls.__qualname__}"
    return {name: {f.name: _dumped_inside(getattr(method, f.name)) for f in dataclasses.fields(cls) if f.init}}
