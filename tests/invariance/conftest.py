"""Two processes that meet through a file and leave their answers in one each."""

from __future__ import annotations

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
