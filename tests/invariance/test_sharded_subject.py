"""One and two processes give the same answers to every question, in order, and fail together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
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


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, two_processes: Callable[[Path, Path], list[Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return alone(), two_processes(WORKER, tmp_path_factory.mktemp("sharded"))


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
    assert one["failure"].startswith("row 6 has the columns ['id']")
    first, second = (answer["failure"] for answer in two)
    assert first == second
    assert first.startswith("The audit failed on process 1 of 2 (it counts its own rows: number n is row 2 + 2 (n - 1)")
    assert "row 3 has the columns ['id']" in first


def test_processes_agree_on_what_the_first_one_says(found: Any) -> None:
    one, two = found
    for rank, answer in enumerate(two):
        assert answer["agreed"] == one["agreed"] == 0
        assert answer["heard"] == one["heard"] == "process 0 cannot write"
        assert answer["turns"] == f"made by {rank}"
        for mine, first in zip(answer["equal"], one["equal"], strict=True):
            assert torch.equal(mine, first)
