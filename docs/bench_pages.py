"""The page of the benches: what each script of ``bench/`` measures, and what it wrote to ``results/bench/``."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_text import code, escape, prose, table
from palimpsest.verdict import number

BENCH = Path(__file__).resolve().parent.parent / "bench"
LONGEST = 4
"""Lists up to this long stand in a cell; longer ones are single measurements, which the file keeps."""

Cells = dict[str, str]


@dataclass(frozen=True)
class Bench:
    """One bench: what its script says it does, what holds for all rows, and the rows."""

    name: str
    about: str
    settings: Cells
    rows: Sequence[Cells]


def load_benches(folder: Path, scripts: Path = BENCH) -> list[Bench]:
    """All benches that were measured; a file without its script, or that is none, is an error that names it."""
    return [_bench(file, scripts / f"{file.stem.replace('-', '_')}.py") for file in sorted(folder.glob("*.json"))]


def benches_page(benches: Sequence[Bench]) -> str:
    """The Markdown of the page."""
    parts = [
        "# Benches",
        "Speed and memory, measured by the scripts of the folder `bench`. Every figure is one that its script wrote.",
    ]
    for bench in benches:
        first, *more = re.split(r"\n\s*\n", bench.about)
        parts += [f"## {escape(bench.name)}", prose(first)]
        parts += [
            code(textwrap.dedent(block).strip(), "sh") if block.startswith("    ") else prose(block) for block in more
        ]
        header = list(dict.fromkeys(key for row in bench.rows for key in row))
        parts.append(
            table([escape(key) for key in header], [[row.get(key, "") for key in header] for row in bench.rows])
        )
        if bench.settings:
            parts.append("Measured with " + "; ".join(f"{escape(k)}: {v}" for k, v in bench.settings.items()) + ".")
    return "\n\n".join(parts) + "\n"


def _bench(file: Path, script: Path) -> Bench:
    if not script.is_file():
        raise ValueError(f"{file} has no script {script.name} in bench; name the file after the script that wrote it.")
    about = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON ({error}); write it with python bench/{script.name} --json.") from None
    given = {"rows": found} if isinstance(found, list) else found if "rows" in found else {"rows": [found]}
    rows = [dict(_cells(row)) for row in given["rows"]]
    settings = {k: v for k, v in given.items() if k not in ("rows", "what")}
    return Bench(file.stem, about, dict(_cells(settings)), rows)


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures of a row as text; those of a part stand behind its name."""
    for key, value in row.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            yield from ((f"{name}, {inner}", text) for inner, text in _cells(value))
        elif not isinstance(value, list):
            yield name, _text(value)
        elif len(value) <= LONGEST and not any(isinstance(v, list | dict) for v in value):
            yield name, " × ".join(map(_text, value)) or "none"


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return (
        number(value, 0 if isinstance(value, int) else None) if isinstance(value, int | float) else escape(str(value))
    )
