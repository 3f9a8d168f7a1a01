"""The single items behind a watched figure, on the disk: a file for each figure, a row of it for each measurement.

    keep(folder, "first/accuracy", place, scores)     # the items of measurement 0, 1, 2, …
    items = kept(folder, "first/accuracy", points)    # once the stage is over; None where they do not make these points
    items.figures(counts)                             # what a resample would have measured, at every step

A curve holds one number a measurement; its items may be a thousand times as many, so they are never in memory together.
A row has its place, so a stage that was killed writes over what it measures again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from palimpsest.audit import Scores, Statistic
from palimpsest.checkpoint import unwritable
from palimpsest.resample import Array, figures, numbers

__all__ = ["Items", "keep", "kept"]

_CELLS = 2**21
"""Most numbers of a part that is in memory at a time."""


def keep(folder: Path, name: str, place: int, scores: Scores) -> None:
    """Writes the items of measurement ``place``; one whose items are not those of the first is left out."""
    head, path = _head(scores), _file(folder, name)
    row = numbers(scores.items).astype("<f8").tobytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if place and not path.exists():
            return
        with path.open("r+b" if place else "w+b") as file:
            if place == 0:
                file.write(head)
            elif file.read(len(head)) != head:
                return
            file.seek(len(head) + place * len(row))
            file.write(row)
    except OSError as error:
        raise unwritable(path, error) from error


def _file(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe='')}.items"


def _head(scores: Scores) -> bytes:
    """What all rows have in common, as a line of a multiple of eight bytes."""
    groups = None if scores.groups is None else scores.groups.tolist()
    line = json.dumps({"ids": scores.ids, "statistic": scores.statistic, "groups": groups}).encode()
    return line.ljust((len(line) // 8 + 1) * 8 - 1) + b"\n"


@dataclass(frozen=True)
class Items:
    """``measurements`` rows of one value for each of ``ids``, which ``statistic`` makes into a figure."""

    file: Path
    start: int
    ids: tuple[str, ...]
    statistic: Statistic
    groups: Array | None
    measurements: int

    @property
    def effective(self) -> int:
        """Items that carry the figure: all of them, or those of the smaller group of an AUC."""
        if self.statistic == "auc" and self.groups is not None:
            return int(min((self.groups == 0).sum(), (self.groups == 1).sum()))
        return len(self.ids)

    def rows(self, first: int, count: int) -> Array:
        """[count, items] from row ``first`` on."""
        size = len(self.ids)
        found = np.fromfile(self.file, "<f8", count * size, offset=self.start + 8 * size * first)
        return found.astype(np.float64, copy=False).reshape(-1, size)

    def figures(self, counts: Array) -> Array:
        """[R, measurements] of resamples that drew each item as often as ``counts`` [R, items] say."""
        size = max(1, _CELLS // max(len(self.ids), len(counts)))
        parts = [
            figures(self.rows(first, min(size, self.measurements - first)), self.statistic, self.groups, counts).T
            for first in range(0, self.measurements, size)
        ]
        return np.concatenate(parts, axis=1)


def kept(folder: Path, name: str, points: Sequence[tuple[int, float]]) -> Items | None:
    """The items of every measurement; None unless each makes the value of its point (a crash may have lost some)."""
    path = _file(folder, name)
    if not path.exists():
        return None
    with path.open("rb") as file:
        line = file.readline()
    try:
        about = json.loads(line)
    except ValueError:
        return None
    groups = None if about["groups"] is None else np.asarray(about["groups"], dtype=np.float64)
    found = Items(path, len(line), tuple(about["ids"]), about["statistic"], groups, len(points))
    if path.stat().st_size != found.start + 8 * len(points) * len(found.ids):
        return None
    values = found.figures(np.ones((1, len(found.ids))))[0].tolist()
    same = all(math.isclose(own, value, rel_tol=1e-9, abs_tol=1e-12) for own, (_, value) in zip(values, points))
    return found if same else None
