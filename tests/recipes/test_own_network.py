"""A network of the user's own starts with each seed from weights of its own, the same in every life of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.checkpoint import read_tensors
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run

NETWORK = """
import torch
from torch import nn


def make() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.2), nn.Linear(8, 10))
    net.register_buffer("start", torch.randn(3))
    return net
"""


class Killed(Quiet):
    """Ends a run as it comes to a part of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def part(self, number: int, parts: int, label: str) -> None:
        """Stops at the first part of that seed."""
        if label.endswith(f"(seed {self.seed})"):
            raise KeyboardInterrupt


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One stage on pictures of two digits, with two seeds."""
    (tmp_path / "network_of_mine.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {
        "model": {"pretrained": "network_of_mine:make", "adapter": "classifier", "classes": 10},
        "roles": {"task": {"zoo": "digits", "classes": [3, 4]}},
        "objective": [{"on": "task", "cross_entropy": {}}],
        "train": {"steps": 3, "batch": 8, "lr": 1e-2},
        "audits": {"task": ["accuracy"]},
        "seeds": [5, 6],
    }


def left(folder: Path, seed: int) -> dict[str, Tensor]:
    return read_tensors(folder / f"seed-{seed}" / "after" / "0-train" / "model.safetensors")[0]


def test_the_second_seed_starts_alike_whether_the_first_was_done_in_the_same_life(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    recipe = parse_recipe(raw, allow_imports=True)
    whole = run(recipe, tmp_path / "whole", allow_imports=True)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "killed", events=Killed(6), allow_imports=True)
    torch.rand(7)  # another life comes to its second seed with other numbers drawn
    killed = run(recipe, tmp_path / "killed", allow_imports=True)
    one, other = left(tmp_path / "whole", 6), left(tmp_path / "killed", 6)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert whole.scores == killed.scores
    assert not torch.equal(one["start"], left(tmp_path / "whole", 5)["start"]), "each seed has a start of its own"
