"""A page for each method file: its card, its fields, its public functions."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape as html
from types import ModuleType
from typing import Any

from curves import curve
from markdown_text import code, escape, prose, span, table
from palimpsest.card import MethodCard, kernel_cards
from palimpsest.names import families

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_WIDTH = 96
_FORMS = {
    "edits": "edit: {}",
    "masks": "mask: {}",
    "interventions": "intervention: {}",
    "layers": "layers: {}",
    "selectors": "select: {{role: {}}}",
    "optim": "train: {{optimizer: {}}}",
    "schedules": "train: {{schedule: {}}}",
    "audits": "audits: {{role: [{}]}}",
    "baselines": "baselines: [{}]",
    "procedures": "{}",
}
"""Family -> the line of a recipe in which its methods stand."""


@dataclass(frozen=True)
class MethodPage:
    """One page: where it lies in the site, its title, and its Markdown."""

    family: str
    name: str
    path: str
    text: str


def method_page(entry: MethodCard, papers: dict[str, str]) -> MethodPage:
    """The page of one method; ``papers`` maps the slugs whose parts include it to the papers' titles."""
    module = importlib.import_module(f"palimpsest.{entry.family}.{entry.name}")
    card = entry.card
    parts = [f"# {escape(entry.name)}", prose(card.summary)]
    if card.equation:
        parts.append(code(card.equation))
    if card.body:
        parts.append(prose(card.body))
    if entry.family == "schedules":
        parts.append(curve(module.METHOD(), f"{entry.name} with its default fields, from the first step to the last"))
    fields = {"Paper": prose(card.paper), "Code": prose(card.code), "Tags": _tag_links(card.tags)}
    fields |= {"Needs": _explained(prose(card.needs)), "Differs": prose(card.differs)}
    fields["See"] = _linked(prose(card.see), entry.family)
    parts += [f"**{label}**: {text}" for label, text in fields.items() if text]
    parts += [f"Part of [{escape(title)}](../../papers/{slug}.md)." for slug, title in papers.items()]
    recipe = in_a_recipe(entry.family, entry.name, module.METHOD)
    parts.append(f"In a recipe: {span(recipe)}." if recipe else "")
    parts.append(f"In Python: {span(f'from {module.__name__} import {module.METHOD.__name__}')}.")
    parts += [section for value in public_objects(module) for section in object_sections(value)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    return MethodPage(entry.family, entry.name, f"methods/{entry.family}/{entry.name}.md", text)


def _tag_links(tags: Sequence[str]) -> str:
    return ", ".join(f"[{tag}](../index.md#tag={tag})" for tag in tags)


def _explained(needs: str) -> str:
    """What a method needs, with a way to the word where it begins with one of the glossary."""
    word = next((word for word in ("ref", "teacher") if re.match(rf"{word}\b", needs)), None)
    return needs if word is None else f"[{word}](../../glossary.md#nouns){needs.removeprefix(word)}"


def _linked(text: str, family: str) -> str:
    """The names of methods in ``text`` as links to their pages; where several share one, that of ``family``."""
    pages = {**families(), "kernels": {card.name: "" for card in kernel_cards()}}

    def link(found: re.Match[str]) -> str:
        homes = [home for home, members in pages.items() if found[1] in members]
        home = family if family in homes else homes[0] if len(homes) == 1 else None
        return found[0] if home is None else f"[{found[0]}](../{home}/{found[1]}.md)"

    return re.sub(r"``(\w+)``", link, text)


def in_a_recipe(family: str, name: str, method: Any) -> str:
    """The line of a recipe in which the method stands with its default fields; "" for a kernel and a law.

    A procedure stands in several places, each of its own, so it has its name alone.
    """
    if family == "objectives":
        roles = "weights" if method.unit == "parameter" else "[role, another]" if method.arity == 2 else "role"
        return f"objective: [{{on: {roles}, {name}: {{}}}}]"
    return _FORMS.get(family, "").format(name)


def public_objects(module: ModuleType) -> list[Any]:
    """The method itself first, then the module's other public classes and functions in the order of ``__all__``."""
    method = module.METHOD
    listed = vars(module).get("__all__") or [name for name in vars(module) if not name.startswith("_")]
    own = [
        value
        for name in listed
        if (inspect.isclass(value := vars(module)[name]) or inspect.isfunction(value))
        and value.__module__ == module.__name__
        and value is not method
    ]
    return [method, *own]


def object_sections(value: Any) -> list[str]:
    """Heading, signature, docstring, and the table of fields of a dataclass."""
    sections = [f"## {escape(value.__name__)}", code(signature(value), "python")]
    text = inspect.getdoc(value) if "__doc__" in vars(value) or inspect.isfunction(value) else None
    # A dataclass without a docstring is given its signature as one, which already stands above.
    if text and not text.startswith(f"{value.__name__}("):
        sections.append(prose(text))
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        sections += field_sections(value)
    if inspect.isclass(value) and "unit" in vars(value):
        sections.append(f"[Unit](../../glossary.md#units) of one item: {span(str(vars(value)['unit']))}.")
    return sections


def signature(value: Callable[..., Any]) -> str:
    """The call as a user writes it, one parameter a line where it is long; the same text in every build."""
    given = inspect.signature(value)
    parameters = [p.replace(annotation=_as_written(p.annotation)) for p in given.parameters.values()]
    returns = inspect.Signature.empty if inspect.isclass(value) else _as_written(given.return_annotation)
    full = given.replace(parameters=parameters, return_annotation=returns)
    text = _ADDRESS.sub("", f"{value.__name__}{full}")
    if len(text) <= _WIDTH:
        return text
    lines = [f"    {_ADDRESS.sub('', str(p))}," for p in _with_star(full)]
    tail = "" if returns is inspect.Signature.empty else f" -> {inspect.formatannotation(returns)}"
    return "\n".join([f"{value.__name__}(", *lines, f"){tail}"])


def field_sections(cls: type) -> list[str]:
    """The fields that a recipe may set, with types and defaults, and their meaning where the class documents it."""
    fields = [f for f in dataclasses.fields(cls) if f.init]
    if not fields:
        return ["It has no fields."]
    meanings = attribute_docstrings(cls)
    header = ["Field", "Type", "Default", *(["Meaning"] if meanings else [])]
    rows = [
        [
            span(f.name),
            span(inspect.formatannotation(_as_written(f.type))),
            default_of(f),
            *([prose(meanings.get(f.name, ""))] if meanings else []),
        ]
        for f in fields
    ]
    return [table(header, rows)]


def default_of(field: dataclasses.Field[Any]) -> str:
    """A field's default as code, or the word required."""
    if field.default is not dataclasses.MISSING:
        return span(_ADDRESS.sub("", repr(field.default)))
    if field.default_factory is not dataclasses.MISSING:
        return span(_ADDRESS.sub("", repr(field.default_factory())))
    return "required"


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Field name -> the string literal that follows its line in the class body."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for line, following in zip(body.body, body.body[1:]):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[line.target.id] = inspect.cleandoc(str(following.value.value))
    return found


def methods_index(cards: tuple[MethodCard, ...]) -> str:
    """The list of all methods, filtered in the browser by words, folder and tag."""
    from paper_pages import entry_list

    if not cards:
        return "# Methods\n\nNo method file is installed.\n"
    rows = []
    for family, name, card in cards:
        body = (
            f'<h2><a href="{family}/{name}.html">{html(name)}</a></h2><p>{html(card.summary)}</p>'
            f'<p class="meta">{html(family)} · {html(", ".join(card.tags))}</p>'
        )
        values = {"family": [family], "tag": list(card.tags)}
        rows.append((values, f"{name} {family} {card.summary} {card.paper}", body))
    heading = "# Methods\n\nEvery method is one file, found by its name.\n\n"
    return heading + entry_list("methods", ["family", "tag"], rows)


@dataclass(frozen=True)
class _Written:
    """An annotation kept as text, shown without quotation marks."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _as_written(annotation: Any) -> Any:
    return _Written(annotation) if isinstance(annotation, str) else annotation


def _with_star(full: inspect.Signature) -> list[inspect.Parameter | str]:
    """The parameters with the bare ``*`` that stands before the first keyword-only one."""
    marked: list[inspect.Parameter | str] = list(full.parameters.values())
    kinds = [p.kind for p in full.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        marked.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return marked
