"""Rows from where users keep them: lists, JSON lines, CSV, Parquet, and ``datasets`` folders or hub names.

A row is a dict. Nothing is skipped in silence: a line that cannot be read ends with its file and number.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy import generic, ndarray
from torch import Tensor

from palimpsest.audit import Row

__all__ = ["load_rows", "located", "row_digest", "row_key"]

READERS = ("jsonl", "json", "csv", "parquet")


def load_rows(
    source: str, *, columns: Mapping[str, str] | None = None, rows: int | None = None, folder: Path | None = None
) -> list[Row]:
    """Rows of a file (.jsonl, .json, .csv, .parquet), a ``datasets`` folder, or a hub name with ``#split``.

    ``columns`` renames: {"prompt": "question"} reads the column ``question`` as ``prompt``. ``rows`` takes the first so
    many. A relative path is looked up from ``folder``, then from the working directory.
    """
    found = _read(source, folder)
    if columns:
        found = [_renamed(row, columns, source, number) for number, row in enumerate(found, 1)]
    if rows is not None:
        if rows < 1:
            raise ValueError(f"{source}: rows must be at least 1, not {rows}.")
        found = found[:rows]
    if not found:
        raise ValueError(f"{source} holds no rows; write some into it, or name another file.")
    return found


def row_key(row: Row) -> str:
    """What identifies a row: its ``id``, or a digest of its content."""
    return str(row["id"]) if "id" in row else row_digest(row)[:16]


def row_digest(row: Row) -> str:
    """64 hexadecimal digits that depend on a row's columns and values, and on nothing else."""
    shown = {str(k): v for k, v in row.items()}
    return hashlib.sha256(json.dumps(shown, sort_keys=True, default=_shown).encode()).hexdigest()


def _shown(value: Any) -> Any:
    """A value that JSON has no form for: an array as numbers, else its text without the address in memory."""
    if isinstance(value, Tensor | ndarray | generic):
        return value.tolist()
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def located(source: str, folder: Path | None) -> Path:
    """Where ``source`` lies: beside the recipe if it is there, else from the working directory."""
    try:
        path = Path(source).expanduser()
        if not path.is_absolute() and folder is not None and (folder / path).exists():
            return folder / path
        path.exists()  # a name that no file system takes is noticed here
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"{source[:60]!r} is no path ({why}); name a file.") from None
    return path


def _renamed(row: Row, columns: Mapping[str, str], source: str, number: int) -> Row:
    missing = [old for old in columns.values() if old not in row]
    if missing:
        raise ValueError(f"{source} row {number} has no column {missing[0]!r}; it has: {', '.join(map(str, row))}.")
    taken = set(columns.values())
    return {k: v for k, v in row.items() if k not in taken} | {new: row[old] for new, old in columns.items()}


def _read(source: str, folder: Path | None) -> list[Row]:
    path = located(source, folder)
    suffix = path.suffix.lower().removeprefix(".")
    if path.is_dir():
        return _from_datasets(path)
    if not path.exists():
        if suffix in READERS or "/" not in source or source.startswith((".", "/")):
            raise ValueError(
                f"{source} does not exist; check the path (it is looked up beside the recipe, then in the working"
                " directory)."
            )
        return _from_hub(source)
    try:
        if suffix in ("jsonl", "json"):
            return _json_rows(path)
        if suffix == "csv":
            return _csv_rows(path)
        if suffix == "parquet":
            return _parquet_rows(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{path} could not be read ({error.strerror or error}).") from None
    raise ValueError(
        f"{path}: rows are read from {', '.join('.' + r for r in READERS)} files, not from"
        f" {path.suffix or 'files without ending'}."
    )


def _json_rows(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        values = _json(text, str(path), None)
        numbered, unit = list(enumerate(values, 1)), "entry"
    else:
        # Not splitlines: U+2028 and its kin may stand inside a JSON text.
        lines = enumerate(text.split("\n"), 1)
        numbered = [(number, _json(line, str(path), number)) for number, line in lines if line.strip()]
        unit = "line"
    for number, value in numbered:
        if not isinstance(value, dict):
            raise ValueError(f"{path} {unit} {number}: a row is an object with named columns, not {str(value)[:40]!r}.")
    return [value for _, value in numbered]


def _json(text: str, path: str, number: int | None) -> Any:
    """One JSON value; an error names the line, which is ``number`` where the text is one line of a file."""
    remedy = "correct the file" if number is None else "correct or delete the line"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line, why = number or error.lineno, error.msg
        if number == 1 and text.strip() in ("{", "[") and path.endswith(".json"):
            why, remedy = "it goes on in the next line", "write one row a line, or all rows as one list"
    except RecursionError:
        line, why = number or 1, "it is nested too deeply"
    except ValueError:  # a whole number of thousands of digits
        line, why = number or 1, "it holds a number of too many digits"
    raise ValueError(f"{path} line {line}: this is not JSON ({why}); {remedy}.")


def _csv_rows(path: Path) -> list[Row]:
    found: list[Row] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)  # strict, since a quote left open would swallow the rows after it
        try:
            names = next(reader, [])
            twice = [n for n in names if names.count(n) > 1]
            if twice:
                raise ValueError(f"{path} line 1: two columns are called {twice[0]!r}; rename one.")
            for cells in reader:
                if cells and len(cells) != len(names):
                    raise ValueError(
                        f"{path} line {reader.line_num}: {len(cells)} cells for {len(names)} columns; correct the line,"
                        " or put a cell that holds commas in quotes."
                    )
                if cells:
                    found.append(dict(zip(names, cells)))
        except csv.Error as error:
            raise ValueError(
                f"{path} line {reader.line_num}: this is not CSV ({error}); correct the line, or save as .jsonl."
            ) from None
    return found


def _parquet_rows(path: Path) -> list[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pyarrow; pip install 'palimpsest[data]'.") from None
    try:
        found: list[Row] = parquet.read_table(path).to_pylist()
    except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow raises for a file of another kind
        why = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{path} could not be read as Parquet ({why.rstrip('.')}); write it again.") from None
    return found


def _from_datasets(path: Path) -> list[Row]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise ValueError(
            f"{path} is a folder; reading a dataset from it needs pip install 'palimpsest[data]'."
        ) from None
    try:
        found = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path} is a folder but no saved dataset ({error}); name a file in it.") from None
    if isinstance(found, DatasetDict):
        raise ValueError(f"{path} holds the splits {sorted(found)}; name one of them as {path}/<split>.")
    return list(found)


def _from_hub(source: str) -> list[Row]:
    name, _, split = source.partition("#")
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(
            f"{source} is no file here; reading it as a hub dataset needs pip install 'palimpsest[data]'."
        ) from None
    try:
        return list(load_dataset(name, split=split or "train"))
    except Exception as error:  # the hub client raises many kinds; all of them mean the same to the user
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ValueError(
            f"{source} is no file here and could not be had from the hub ({reason}); check the name or give a file."
        ) from None
