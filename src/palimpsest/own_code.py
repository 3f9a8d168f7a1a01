"""What a recipe takes from outside Palimpsest, as ``module:Name``: digests of its source, and the line that failed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["code_digests", "line_of"]

NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
"""``package.module:Name``, as ``names.resolve`` reads it."""
PACKAGE = Path(__file__).resolve().parent
FOREIGN = (PACKAGE, *(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")))


def code_digests(spec: Any, *, allow_imports: bool = False) -> dict[str, str]:
    """Every ``module:Name`` in a part of a recipe -> a digest of its source; none without ``allow_imports``.

    The source is the statement that defines the name, those of the module that it uses, and those of other modules of
    the user's that these take names from; not what else stands in those files.
    """
    digests = {}
    for name in sorted(set(_names(spec))) if allow_imports else ():
        found: dict[tuple[str, str], str] = {}
        module, _, attribute = name.partition(":")
        _gather(module, attribute, found)
        if found:
            digests[name] = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
    return digests


@dataclass(frozen=True)
class _Statement:
    """One statement of a module: the names that it binds (None where it may do anything) and those that it uses."""

    node: ast.stmt
    binds: frozenset[str] | None
    uses: frozenset[str]
    text: str


def _gather(module: str, name: str, found: dict[tuple[str, str], str]) -> None:
    """Adds (module, name) -> source of all that ``name`` stands on; ``*`` is everything in the module."""
    file = _file_of(module)
    if (module, name) in found or file is None or not file.is_file() or _foreign(file):
        return
    try:
        statements = _statements(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # whoever imports it says so
        found[module, name] = hashlib.sha256(file.read_bytes()).hexdigest()
        return
    own = [s for s in statements if s.binds is None or name in s.binds or name == "*"]
    found[module, name] = "\n".join(s.text for s in own)
    for statement in own:
        for used in statement.uses:
            _gather(module, used, found)
        for other, theirs in _imported(statement.node, module):
            if name in (theirs[1], "*") or statement.binds is None:
                _gather(other, theirs[0], found)


@lru_cache(64)
def _statements(text: str) -> list[_Statement]:
    """The statements of a module, without its docstring."""
    lines, found = text.splitlines(), []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        uses = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        found.append(_Statement(node, _bound(node), uses, "\n".join(lines[first - 1 : node.end_lineno])))
    return found


def _bound(node: ast.stmt) -> frozenset[str] | None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return frozenset([node.name])
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        return None if "*" in names else frozenset(names)
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return None


def _imported(node: ast.stmt, module: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(module, (its name there, its name here)) of what a statement imports; the name ``*`` is all of it."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, ("*", alias.asname or alias.name.partition(".")[0])
    elif isinstance(node, ast.ImportFrom):
        parent = module.split(".")[: -node.level] if node.level else []
        other = ".".join([*parent, *([node.module] if node.module else [])])
        root = _file_of(other.partition(".")[0])
        if root is not None and _foreign(root):
            return
        for alias in node.names:
            yield other, (alias.name, alias.asname or alias.name)
            yield f"{other}.{alias.name}", ("*", alias.asname or alias.name)  # where that is a module


def _names(spec: Any) -> Iterator[str]:
    """The texts in plain data that may name code."""
    if isinstance(spec, str):
        if NAME.fullmatch(spec):
            yield spec
    elif isinstance(spec, dict):
        for key, value in spec.items():
            yield from _names(key)
            yield from _names(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from _names(value)


def _file_of(module: str) -> Path | None:
    """The source of a module, which is not imported for that; None where there is none."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
        return None if file is None else Path(file)
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # a package of the user's that fails as it is imported: whoever loads it says so
        return None
    return None if found is None or not found.has_location or found.origin is None else Path(found.origin)


def line_of(error: BaseException) -> str | None:
    """``file:line`` of the user's code in which ``error`` arose, or which called into another library where it did.

    None where it arose in Palimpsest.
    """
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = Path(frame.f_code.co_filename)
        if file.resolve().is_relative_to(PACKAGE):
            return None
        if not _foreign(file):
            return f"{_shown(file)}:{number}"
    return None


def _foreign(file: Path) -> bool:
    """Whether a file is none of the user's: of Palimpsest, of Python, installed, or no file at all."""
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return bool(installed) or str(file).startswith("<") or any(file.resolve().is_relative_to(f) for f in FOREIGN)


def _shown(file: Path) -> str:
    """A path as short as it is known here."""
    relative = os.path.relpath(file)
    return str(file) if relative.startswith(os.pardir) else relative
