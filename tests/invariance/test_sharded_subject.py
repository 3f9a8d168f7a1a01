"""One and two processes give the same answers to every question, in order, and fail together."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("sharded_worker.py")


def alone() -> dict[str, Any]:
    """The worker's answers, worked out in this process."""
    spec = importlib.util.spec_from_file_location("sharded_worker", WORKER)
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    with torch.random.fork_rng():
        answers: dict[str, Any] = worker.answers()
    return answers


def together(folder: Path) -> list[dict[str, Any]]:
    """The answers of each of two processes."""
    files = [folder / f"{rank}.pt" for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), "2", folder / "meet", file], stderr=subprocess.PIPE, text=True
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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return alone(), together(tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("question", ["logp", "one", "matches", "embed", "predict", "privacy_leakage", "relearning"])
def test_tensors_are_the_same(found: Any, question: str) -> None:
    one, two = found
    for answer in two:
        torch.testing.assert_close(answer[question], one[question], rtol=0, atol=1e-5)


def test_texts_are_the_same(found: Any) -> None:
    one, two = found
    for answer in two:
        assert answer["generate"] == one["generate"]
        assert answer["sample"] == one["sample"]
        assert answer["truncate"] == one["truncate"]
    assert len(set(one["generate"])) > 1  # else their order would not show


def test_a_row_that_one_process_cannot_read_fails_on_all(found: Any) -> None:
    one, two = found
    assert one["failure"].startswith("row 5 has the columns ['id']")
    first, second = (answer["failure"] for answer in two)
    assert first == second
    assert first.startswith("The audit failed on process 1 of 2 (it counts its own rows: number n is row 1 + 2 n)")
    assert "row 2 has the columns ['id']" in first
