"""The header of a method file, read as data.

Every method file opens with the same card: one plain sentence, the equation as an indented block, and then
the lines ``Paper``, ``Code``, ``Tags``, ``Needs``, ``Differs`` and ``See``, each of which may go on in
indented lines.  The documentation and ``palimpsest list`` read it from here, without importing the method.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from palimpsest.names import families

__all__ = ["FIELDS", "Card", "MethodCard", "docstring_of", "kernel_cards", "method_cards", "parse_card"]

FIELDS = ("Paper", "Code", "Tags", "Needs", "Differs", "See")
"""The labels of a card, in the order in which a file writes them."""

_FIELD = re.compile(rf"({'|'.join(FIELDS)}):(?:\s+(.*))?$")


@dataclass(frozen=True)
class Card:
    """What a method file says about itself; a part that it does not give is empty.

    ``summary`` is the first sentence, ``equation`` the first indented block without its indentation,
    ``body`` the remaining text as it was written.
    """

    summary: str
    equation: str = ""
    body: str = ""
    paper: str = ""
    code: str = ""
    tags: tuple[str, ...] = ()
    needs: str = ""
    differs: str = ""
    see: str = ""


class MethodCard(NamedTuple):
    """A method's folder, its file name, and its card."""

    family: str
    name: str
    card: Card


def parse_card(docstring: str) -> Card:
    """Reads a module docstring. Raises ``ValueError`` when it is empty or gives one field twice."""
    lines = inspect.cleandoc(docstring).splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError("The module docstring is empty; open the file with one plain sentence.")
    text, fields = _split(lines)
    paragraphs = _blocks(text)
    summary = " ".join(line.strip() for line in paragraphs[0]) if paragraphs else ""
    if not summary or paragraphs[0][0][:1].isspace():
        raise ValueError("The module docstring does not begin with a sentence; put one above the equation and fields.")
    rest = paragraphs[1:]
    at = next((i for i, block in enumerate(rest) if block[0][:1].isspace()), None)
    equation = "" if at is None else textwrap.dedent("\n".join(rest[at])).strip("\n")
    body = "\n\n".join("\n".join(block) for i, block in enumerate(rest) if i != at)
    tags = tuple(tag for part in fields["Tags"].split(",") if (tag := part.strip().rstrip(".")))
    return Card(
        summary=summary,
        equation=equation,
        body=body,
        paper=fields["Paper"],
        code=fields["Code"],
        tags=tags,
        needs=fields["Needs"],
        differs=fields["Differs"],
        see=fields["See"],
    )


def _split(lines: list[str]) -> tuple[list[str], dict[str, str]]:
    """The lines that belong to no field, and each field's text with its continuation lines joined."""
    text: list[str] = []
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        match = _FIELD.match(line)
        if match:
            label = match[1]
            if label in found:
                raise ValueError(f"The module docstring has two lines '{label}:'; join them into one.")
            current = found[label] = [match[2] or ""]
        elif current is not None and line[:1].isspace():
            current.append(line.strip())
        else:
            # A blank line does not end a field: what follows it indented still belongs to the field.
            current = current if not line.strip() else None
            text.append(line)
    return text, {label: " ".join(filter(None, found.get(label, []))) for label in FIELDS}


def _blocks(lines: list[str]) -> list[list[str]]:
    """Paragraphs; indented ones that only blank lines separate are one block, their blank lines kept."""
    blocks: list[list[str]] = []
    blank = True
    for line in lines:
        if not line.strip():
            blank = True
            continue
        indented = line[:1].isspace()
        was_indented = bool(blocks) and blocks[-1][0][:1].isspace()
        if blocks and indented and was_indented:
            blocks[-1].extend(["", line] if blank else [line])
        elif blocks and not blank and indented == was_indented:
            blocks[-1].append(line)
        else:
            blocks.append([line])
        blank = False
    return blocks


def docstring_of(module: str) -> str:
    """A module's docstring, read from its source; ``module`` is a dotted path inside ``palimpsest``."""
    base = Path(__file__).parent.joinpath(*module.split(".")[1:])
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=True) or ""


def method_cards() -> tuple[MethodCard, ...]:
    """The cards of all methods, by folder and name; a card that cannot be read is an error that names its module."""
    return tuple(
        _card(family, name, module)
        for family, members in families().items()
        for name, module in sorted(members.items())
    )


def kernel_cards() -> tuple[MethodCard, ...]:
    """The cards of the kernels, which are called in Python and named in no recipe."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent / "kernels")])
    names = sorted(m.name for m in modules if not m.name.startswith("_"))
    return tuple(_card("kernels", name, f"palimpsest.kernels.{name}") for name in names)


def _card(family: str, name: str, module: str) -> MethodCard:
    try:
        return MethodCard(family, name, parse_card(docstring_of(module)))
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{module}: {error}") from error
