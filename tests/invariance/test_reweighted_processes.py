"""Weights by loss are those of the whole batch: one process and two end with the same model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("reweighted_worker.py")


def alone() -> dict[str, torch.Tensor]:
    """The worker's answers, worked out in this process."""
    spec = importlib.util.spec_from_file_location("reweighted_worker", WORKER)
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    with torch.random.fork_rng():
        found: dict[str, torch.Tensor] = worker.answers()
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("reweighted")
    files = [folder / f"{rank}.pt" for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, str(r), "2", folder / "meet", file], stderr=subprocess.PIPE, text=True
        )
        for r, file in enumerate(files)
    ]
    try:
        for process in started:
            _, problem = process.communicate(timeout=240)
            assert process.returncode == 0, problem
    finally:
        for process in started:
            process.kill()
    return alone(), [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("way", ["plain", "ddp"])
@pytest.mark.parametrize("strategy", ["none", "linupper", "quadratic", "extremes"])
def test_two_processes_equal_one(found: Any, strategy: str, way: str) -> None:
    one, two = found
    for answer in two:
        torch.testing.assert_close(answer[way][strategy], one[strategy], rtol=1e-9, atol=1e-9)


def test_the_weights_matter(found: Any) -> None:
    """Otherwise the comparisons above would hold for weights that are all the same."""
    one, _ = found
    for strategy in ("linupper", "quadratic", "extremes"):
        assert float((one[strategy] - one["none"]).abs().max()) > 0.01
