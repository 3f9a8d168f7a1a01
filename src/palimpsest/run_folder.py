"""What a run folder says of itself: whose recipe and data it holds, and the scores of each model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from palimpsest.audit import Scores
from palimpsest.checkpoint import write_json, write_text
from palimpsest.recipe import Recipe, RecipeError, to_yaml

__all__ = ["claim", "claim_data", "read_scores", "write_scores"]


def claim(out: Path, recipe: Recipe) -> None:
    """Makes the folder this recipe's, or refuses one that is somebody else's.

    A folder in which another recipe has finished nothing (it had a mistake, say) is taken over.
    """
    own = to_yaml(recipe)
    kept = out / "recipe.yaml"
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; choose another folder with --out.")
    if kept.exists():
        if kept.read_text(encoding="utf-8") == own:
            for left in list(out.rglob(".*.tmp")):  # of a process that was killed while it wrote
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            return
        if _started(out):
            raise RecipeError(f"{out} holds a run of another recipe; choose another folder with --out, or delete it.")
        (out / "data.json").unlink(missing_ok=True)
    elif out.is_dir() and any(not p.name.endswith(".tmp") for p in out.iterdir()):
        raise RecipeError(f"{out} is not empty and holds no run; choose another folder with --out.")
    try:
        write_text(kept, own)
    except OSError as error:
        why = f"{out} could not be written ({error.strerror}); choose another folder with --out."
        raise RecipeError(why if error.strerror else str(error)) from None


def claim_data(out: Path, digests: Mapping[str, str]) -> None:
    """Keeps the digests of the data, or refuses data that has changed since the run began."""
    file = out / "data.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        changed = [role for role in digests if kept.get(role) != digests[role]]
        if not changed:
            return
        if _started(out):
            raise RecipeError(
                f"roles.{changed[0]}: its rows have changed since the run in {out} began; choose another folder with"
                " --out, or delete that one."
            )
    write_json(file, dict(digests))


def _started(out: Path) -> bool:
    """Whether anything that took time lies in the folder."""
    return (out / "report.json").exists() or any(p.is_file() for p in out.glob("seed-*/**/*"))


def write_scores(file: Path, scores: Sequence[Scores]) -> None:
    """Writes every audited item; read back, they are the same to the last bit."""
    write_json(file, [_entry(s) for s in scores])


def _entry(scores: Scores) -> dict[str, Any]:
    entry = {f.name: getattr(scores, f.name) for f in dataclasses.fields(scores)}
    entry["items"] = scores.items.tolist()
    entry["groups"] = None if scores.groups is None else scores.groups.tolist()
    entry["extra"] = {name: value if math.isfinite(value) else None for name, value in scores.extra.items()}
    return entry


def read_scores(file: Path) -> list[Scores]:
    """What ``write_scores`` wrote. Raises ``ValueError`` where that cannot be read."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [_scores(entry) for entry in entries]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); delete it and run the recipe again.") from None


def _scores(entry: dict[str, Any]) -> Scores:
    groups, outputs = entry["groups"], entry["outputs"]
    extra = {name: math.nan if value is None else value for name, value in entry["extra"].items()}
    return Scores(
        **{
            **entry,
            "items": torch.tensor(entry["items"], dtype=torch.float64),
            "ids": tuple(entry["ids"]),
            "groups": None if groups is None else torch.tensor(groups),
            "outputs": None if outputs is None else tuple(outputs),
            "extra": extra,
        }
    )
