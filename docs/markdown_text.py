"""Text of docstrings and papers, made safe for Markdown."""

from __future__ import annotations

import re
from html import escape as html

_CODE = re.compile(r"(``.+?``|`[^`\n]+`)", re.DOTALL)
_SPECIAL = re.compile(r"([\\`*_\[\]])")


def escape(text: str) -> str:
    """One line of plain text: nothing in it is markup."""
    return _SPECIAL.sub(r"\\\1", html(text, quote=False))


def prose(text: str) -> str:
    """A docstring's text: code spans and indented blocks stay code, all other special characters are literal."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith(("    ", "\t")):
            paragraphs.append(block)
        else:
            # Every second piece of the split is a code span, which Markdown already takes literally.
            pieces = _CODE.split(block)
            paragraphs.append("".join(p if i % 2 else escape(p) for i, p in enumerate(pieces)))
    return "\n\n".join(paragraphs)


def code(text: str, language: str = "text") -> str:
    """A fenced block; the fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def span(text: str) -> str:
    """A code span for a sentence or a table cell."""
    if "`" in text:
        return f"`` {text} ``"
    return f"`{text}`" if text else ""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a line break inside a cell becomes a space, a vertical bar stays one."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in line) + " |" for line in lines)
