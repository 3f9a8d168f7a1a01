"""The items behind a watched figure, on the disk: what was written, what a resample makes of it, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palimpsest import watched_items
from palimpsest.audit import Scores, Statistic
from palimpsest.resample import figures
from palimpsest.statistics import aggregate
from palimpsest.watched_items import Items, keep, kept

IDS = tuple(f"i{n}" for n in range(12))
GROUPS = torch.tensor([0.0, 1.0] * 6)
Points = list[tuple[int, float]]


def scores(place: int, statistic: Statistic = "mean", **changes: Any) -> Scores:
    items = torch.rand(12, generator=torch.Generator().manual_seed(place))
    groups = GROUPS if statistic == "auc" else None
    return Scores(**{"name": "recall", "items": items, "ids": IDS, "statistic": statistic, "groups": groups, **changes})


def written(folder: Path, count: int = 5, statistic: Statistic = "mean", start: int = 0) -> Points:
    points = []
    for place in range(count):
        own = scores(place, statistic)
        if place >= start:
            keep(folder, "first task/recall", place, own)
        points.append((4 * place, aggregate(own.items, own.statistic, own.groups)))
    return points


def read(folder: Path, points: Points) -> Items:
    found = kept(folder, "first task/recall", points)
    assert found is not None
    return found


def test_every_item_of_every_measurement_to_the_last_bit(tmp_path: Path) -> None:
    found = read(tmp_path, written(tmp_path))
    assert (found.ids, found.statistic, found.groups, found.measurements) == (IDS, "mean", None, 5)
    expected = np.stack([scores(place).items.double().numpy() for place in range(5)])
    assert np.array_equal(found.rows(0, 5), expected) and np.array_equal(found.rows(3, 1), expected[3:4])


@pytest.mark.parametrize("statistic", ["mean", "auc", "harmonic_mean"])
@pytest.mark.parametrize("cells", [2**21, 30])
def test_a_resample_is_what_the_same_draw_makes_of_each_measurement(
    tmp_path: Path, statistic: Statistic, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_items, "_CELLS", cells)
    points = written(tmp_path, statistic=statistic)
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=7) + 0.0
    counts[:, :2] += 1  # of each group one
    found = read(tmp_path, points).figures(counts)
    groups = GROUPS.double().numpy() if statistic == "auc" else None
    for place in range(5):
        own = figures(scores(place).items.double().numpy(), statistic, groups, counts)
        assert found[:, place] == pytest.approx(own, abs=1e-15)


def test_what_is_measured_again_is_written_over(tmp_path: Path) -> None:
    """A killed stage goes on from its checkpoint; what lies beyond that is there already, perhaps half a row of it."""
    points = written(tmp_path / "whole")
    written(tmp_path / "killed", 4)
    (file,) = (tmp_path / "killed").iterdir()
    with file.open("ab") as half:
        half.write(b"half a row")
    written(tmp_path / "killed", start=2)
    (whole,) = (tmp_path / "whole").iterdir()
    assert whole.name == file.name and whole.read_bytes() == file.read_bytes()
    written(tmp_path / "killed", 1)  # a stage that begins anew forgets what was there
    assert kept(tmp_path / "killed", "first task/recall", points[:1]) is not None


@pytest.mark.parametrize(
    "harm", ["a row less", "a row changed", "no file", "half a head", "other items", "nothing at first"]
)
def test_items_that_do_not_make_the_curve_are_none(tmp_path: Path, harm: str) -> None:
    points = written(tmp_path, 4)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    if harm == "no file" or harm == "nothing at first":
        file.unlink()
    if harm == "other items":
        keep(tmp_path, "first task/recall", 4, scores(4, ids=tuple(reversed(IDS))))
    elif harm == "nothing at first":
        keep(tmp_path, "first task/recall", 4, scores(4))
    elif harm != "no file":
        changes = {"a row less": data[:-96], "a row changed": data[:-8] + bytes(8), "half a head": data[:40]}
        file.write_bytes(changes[harm])
    if harm in ("other items", "nothing at first"):
        points = [*points, (16, 0.5)]
    assert kept(tmp_path, "first task/recall", points) is None


def test_a_disk_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"could not be written .* free some space or choose another folder"):
        keep(tmp_path / "file", "a", 0, scores(0))
