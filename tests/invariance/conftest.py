"""Two processes that meet through a file and leave their answers in one each; reports that should be the same."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def two_processes() -> Callable[[Path, Path], list[Any]]:
    """``two_processes(worker, folder)``: what ``worker <rank> 2 <meeting file> <own file>`` saved, by rank."""

    def run(worker: Path, folder: Path) -> list[Any]:
        files = [folder / f"{rank}.pt" for rank in range(2)]
        started = [
            subprocess.Popen(
                [sys.executable, worker, str(rank), "2", folder / "meet", file], stderr=subprocess.PIPE, text=True
            )
            for rank, file in enumerate(files)
        ]
        try:
            for process in started:
                _, problem = process.communicate(timeout=240)
                assert process.returncode == 0, problem
        finally:
            for process in started:
                process.kill()
        return [torch.load(file, weights_only=True) for file in files]

    return run


@pytest.fixture(scope="session")
def alike() -> Callable[..., None]:
    """``alike(one, two, place, tolerance=1e-4)`` fails where two values of reports differ, see ``_alike``."""
    return _alike


def _alike(one: Any, two: Any, place: str, tolerance: float = 1e-4) -> None:
    """Equal but for the rounding of sums that were taken in another order, and of what it leads to."""
    if isinstance(one, float) and isinstance(two, float):
        assert math.isclose(one, two, rel_tol=1e-3, abs_tol=tolerance), f"{place}: {one} and {two}"
    elif isinstance(one, dict) and isinstance(two, dict):
        assert one.keys() == two.keys(), place
        for key in one:
            _alike(one[key], two[key], f"{place}.{key}", tolerance)
    elif isinstance(one, list) and isinstance(two, list):
        assert len(one) == len(two), place
        for i, (a, b) in enumerate(zip(one, two)):
            _alike(a, b, f"{place}.{i}", tolerance)
    else:
        assert one == two, f"{place}: {one} and {two}"
