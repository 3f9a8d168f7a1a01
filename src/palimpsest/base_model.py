"""The folder or file from which a run starts: where it was found, and by what its weights are known again.

    base.json: {"place": …, "files": {"model.safetensors": {"bytes": …, "modified": …, "sha256": …}}}

A name of the zoo or of the hub stands for the same weights at any time; what lies in a folder may be replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palimpsest.checkpoint import write_json
from palimpsest.loaded import base_of
from palimpsest.recipe import ModelSpec, RecipeError
from palimpsest.run_folder import BASE, started

__all__ = ["claim_base", "found_base"]

WEIGHTS = (("model*.safetensors",), ("pytorch_model*.bin",), ("*.safetensors", "*.bin"))
"""The files of a folder that hold weights: the first of these that are there, in the order in which they are loaded."""


def found_base(out: Path, model: ModelSpec, folder: Path | None) -> Path | None:
    """Where a recipe's model lies: beside the recipe, in the working directory, or where the run in ``out`` found it.

    None for a model with a name, and for one that is gone once a run has its report.  Raises ``RecipeError``.
    """
    try:
        return base_of(model, folder)
    except RecipeError:
        place = Path(_kept(out).get("place", ""))
        if place.is_absolute() and place.exists():
            return place
        if (out / "report.json").exists():
            return None
        raise


def claim_base(out: Path, base: Path | None) -> None:
    """Keeps digests of the weights in ``base``, or refuses weights that have changed since the run began.

    A file whose size and time of change are those of the last look is not read again.  Of a run that earlier code
    finished nothing is known, and nothing is kept.
    """
    if base is None:
        return
    kept, begun = _kept(out), started(out)
    known: Mapping[str, Any] = kept.get("files", {})
    now = {file.name: _record(file, known.get(file.name)) for file in _weights_of(base)}
    changed = [name for name in sorted({*known, *now}) if _digest(known, name) != _digest(now, name)]
    if known and begun and changed:
        raise RecipeError(
            f"model.pretrained: {changed[0]} in {base if base.is_dir() else base.parent} has changed since the run in"
            f" {out} began; choose another folder with --out, or delete that one."
        )
    record = {"place": str(base), "files": now}
    if record != kept and (kept or not (out / "report.json").exists()):
        with contextlib.suppress(OSError) if begun and kept else contextlib.nullcontext():  # then it only saves time
            write_json(out / BASE, record)


def _kept(out: Path) -> dict[str, Any]:
    file = out / BASE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _weights_of(base: Path) -> list[Path]:
    if base.is_file():
        return [base]
    kinds = ([file for pattern in kind for file in base.glob(pattern)] for kind in WEIGHTS)
    return sorted(next(filter(None, kinds), []))


def _record(file: Path, before: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Size in bytes, time of change in nanoseconds and SHA-256 of a file, the last from ``before`` if it may be."""
    about = file.stat()
    looked = {"bytes": about.st_size, "modified": about.st_mtime_ns}
    if before is not None and all(before[key] == value for key, value in looked.items()):
        return before
    with file.open("rb") as content:
        return {**looked, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def _digest(files: Mapping[str, Any], name: str) -> str | None:
    return files[name]["sha256"] if name in files else None
