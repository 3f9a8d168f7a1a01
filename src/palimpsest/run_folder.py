"""What a run folder says of itself: whose recipe and data it holds, and the scores of each model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from palimpsest.audit import UNBOUNDED, Scores
from palimpsest.checkpoint import append_line, write_json, write_text
from palimpsest.recipe import Recipe, RecipeError, short, to_yaml
from palimpsest.yaml_text import parse

__all__ = ["add_scores", "claim", "claim_code", "claim_data", "commits_of", "read_scores"]

CODE = "code.json"
JUDGE = ("title", "expect")
"""Keys of a recipe that decide what a report says, and nothing of what is trained or measured."""
_MISSING = object()
"""In place of a key that is not there: ``clip: null`` trains otherwise than no ``clip``, which means its default."""


def claim(out: Path, recipe: Recipe) -> None:
    """Makes the folder this recipe's, or refuses one that is somebody else's.

    A folder in which another recipe has finished nothing (it had a mistake, say) is taken over.  A recipe that differs
    in its title or in what it expects is one of the same run, whose report ``run`` then makes anew.
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
        difference = _difference(kept, recipe)
        if _started(out) and difference is not None:
            raise RecipeError(
                f"{out} holds a run of another recipe{difference}; choose another folder with --out, or delete it."
            )
        for name in () if _started(out) else ("data.json", CODE):
            (out / name).unlink(missing_ok=True)
    elif out.is_dir() and any(not p.name.endswith(".tmp") for p in out.iterdir()):
        raise RecipeError(f"{out} is not empty and holds no run; choose another folder with --out.")
    try:
        write_text(kept, own)
    except OSError as error:
        why = f"{out} could not be written ({error.strerror}); choose another folder with --out."
        raise RecipeError(why if error.strerror else str(error)) from None


def _difference(kept: Path, recipe: Recipe) -> str | None:
    """Where a kept recipe and this one part first, as a half-sentence; empty where that cannot be told.

    None where they train and measure the same.
    """
    try:
        there, here = (
            {key: value for key, value in parse(text).items() if key not in JUDGE}
            for text in (kept.read_text(encoding="utf-8"), to_yaml(recipe))
        )
        found = _parting(there, here, ())
    except (OSError, ValueError, AttributeError):
        return ""
    if found is None:
        return None
    place, then, now = found
    return f" ({short('.'.join(place), quoted=False)} is {_told(then)} there and {_told(now)} here)"


def _parting(there: Any, here: Any, place: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any] | None:
    """(place, value, value) of the first difference of two trees; None where there is none."""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = {str(key): (there.get(key, _MISSING), here.get(key, _MISSING)) for key in {**there, **here}}
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = {str(i): pair for i, pair in enumerate(zip(there, here, strict=True))}
    else:
        return None if there == here else (place, there, here)
    return next((found for key, (a, b) in pairs.items() if (found := _parting(a, b, (*place, key)))), None)


def _told(value: Any) -> str:
    return "not given" if value is _MISSING else "null" if value is None else short(value)


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


def claim_code(out: Path, commit: str) -> None:
    """Keeps the commit of the code that goes on with the run, after those that worked on it before."""
    found = _commits(out)
    if commit not in ("unknown", *found[-1:]):
        write_json(out / CODE, [*found, commit])


def commits_of(out: Path) -> dict[str, str]:
    """``{"commit": ...}``, with commas where a run went on with other code; empty where none is known."""
    found = _commits(out)
    return {"commit": ", ".join(found)} if found else {}


def _commits(out: Path) -> list[str]:
    file = out / CODE
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def _started(out: Path) -> bool:
    """Whether anything that took time lies in the folder."""
    return (out / "report.json").exists() or any(p.is_file() for p in out.glob("seed-*/**/*"))


def add_scores(file: Path, scores: Scores) -> None:
    """Writes every item of one audit, as a line of its own; read back, they are the same to the last bit."""
    append_line(file, json.dumps(_entry(scores), allow_nan=False))


def _entry(scores: Scores) -> dict[str, Any]:
    """The fields, ``name`` first: by it ``read_scores`` knows a line before it is parsed."""
    entry = {f.name: getattr(scores, f.name) for f in dataclasses.fields(scores)}
    entry["items"] = scores.items.tolist()
    entry["groups"] = None if scores.groups is None else scores.groups.tolist()
    entry["bounds"] = [end if math.isfinite(end) else None for end in scores.bounds]
    entry["extra"] = {name: value if math.isfinite(value) else None for name, value in scores.extra.items()}
    return entry


def read_scores(file: Path, audit: str | None = None) -> list[Scores]:
    """What ``add_scores`` wrote, of all audits or of one; a line that was not written to its end is none.

    Raises ``ValueError`` for a file that cannot be read.
    """
    begins = b"" if audit is None else json.dumps({"name": audit})[:-1].encode()
    try:
        with file.open("rb") as lines:
            return [_scores(json.loads(line)) for line in lines if line.startswith(begins) and line.endswith(b"\n")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); delete it and run the recipe again.") from None


def _scores(entry: dict[str, Any]) -> Scores:
    groups, outputs = entry["groups"], entry["outputs"]
    low, high = entry.get("bounds", (None, None))  # which files once did not have
    extra = {name: math.nan if value is None else value for name, value in entry["extra"].items()}
    return Scores(
        **{
            **entry,
            "items": torch.tensor(entry["items"], dtype=torch.float64),
            "ids": tuple(map(sys.intern, entry["ids"])),  # the same in every stage's scores of a role
            "groups": None if groups is None else torch.tensor(groups),
            "outputs": None if outputs is None else tuple(outputs),
            "extra": extra,
            "bounds": (UNBOUNDED[0] if low is None else low, UNBOUNDED[1] if high is None else high),
        }
    )
