"""The peak memory of a stage is its own, not that of whatever was largest before it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palimpsest import heap, peak_memory
from palimpsest.peak_memory import PeakMemory
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run

MIB = 2**20
PROBE = """
import torch
from palimpsest.heap import keep_heap
from palimpsest.peak_memory import PeakMemory
keep_heap()
def used(mib):
    peak = PeakMemory()
    torch.ones(mib, 2**18)  # freed at once
    return peak.bytes()
def highest():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
print(used(400), highest(), used(10), used(400), used(10), highest())
"""
NETWORK = """
import torch
from torch import nn


class Wasteful(nn.Linear):
    def forward(self, x):
        if self.training:
            torch.ones(len(x), 2**20)  # 4 MiB a row
        return super().forward(x)


def make() -> nn.Module:
    return Wasteful(64, 10)
"""
on_linux = pytest.mark.skipif(not heap._has_glibc(), reason="only where the heap can be kept is the figure known")


def _probe(setting: str) -> list[int | None]:
    environment = os.environ | {"PALIMPSEST_KEEP_HEAP": setting, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True, env=environment)
    return [None if word == "None" else int(word) for word in done.stdout.split()]


@on_linux
def test_each_has_its_own_and_the_largest_is_that_of_the_process() -> None:
    large, mark, small, again, last, after = (figure or 0 for figure in _probe("1"))
    assert large == pytest.approx(mark, rel=0.01)
    assert large - small > 350 * MIB and again - last > 350 * MIB
    assert again == pytest.approx(large, abs=20 * MIB) and last == pytest.approx(small, abs=20 * MIB)
    assert after >= mark  # which is what other programs read


@on_linux
def test_where_freed_memory_goes_nothing_is_told() -> None:
    assert _probe("0")[::2] == [None, None, None]


def test_nothing_is_told_without_the_systems_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(peak_memory, "keeps_heap", lambda: True)
    monkeypatch.setattr(peak_memory, "_resident", lambda: None)
    assert PeakMemory().bytes() is None


@on_linux
def test_a_small_arm_after_a_large_one_has_a_figure_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory.torch.cuda, "is_available", lambda: False)
    (tmp_path / "wasteful_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    stage: dict[str, Any] = {"objective": [{"on": "task", "cross_entropy": {}}]}
    train = {"steps": 2, "lr": 1e-2}
    raw = {
        "model": {"pretrained": "wasteful_network:make", "adapter": "classifier", "classes": 10},
        "roles": {"task": {"zoo": "digits", "classes": [3]}},
        **stage,
        "train": {**train, "batch": 64},
        "variants": {"small": {**stage, "train": {**train, "batch": 2}}},
        "audits": {"task": ["accuracy"]},
    }
    report = run(parse_recipe(raw, allow_imports=True), tmp_path / "run", allow_imports=True)
    peaks = {r.name: r.peak_memory_bytes or 0 for r in report.runs}
    assert peaks["small"] > 0 and peaks["after"] - peaks["small"] > 200 * MIB
