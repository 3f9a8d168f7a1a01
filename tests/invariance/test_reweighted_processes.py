"""Weights by loss are those of the whole batch: one process and two end with the same model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
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
def found(
    tmp_path_factory: pytest.TempPathFactory, two_processes: Callable[[Path, Path], list[Any]]
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("reweighted")
    return alone(), two_processes(WORKER, folder)


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
