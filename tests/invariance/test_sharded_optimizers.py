"""Two processes with weights that FSDP2 splits end where one process does, also by way of a state dict."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

WORKER = Path(__file__).with_name("sharded_optimizers.py")


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    spec = importlib.util.spec_from_file_location("sharded_optimizers", WORKER)
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    with torch.random.fork_rng():
        found: dict[str, Tensor] = worker.ends(sharded=False)
    return found


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, two_processes: Callable[[Path, Path], list[Any]]
) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("sharded")
    return two_processes(WORKER, folder)


def test_every_optimizer_ends_where_one_process_does(
    alone: dict[str, Tensor], together: list[dict[str, Tensor]]
) -> None:
    for found in together:
        for case, expected in alone.items():
            torch.testing.assert_close(found[case], expected, rtol=0, atol=1e-9, msg=case)


def test_a_state_dict_goes_on_to_the_same_bits(together: list[dict[str, Tensor]]) -> None:
    for found in together:
        for case in (name for name in found if not name.endswith("resumed")):
            assert torch.equal(found[f"{case}, resumed"], found[case]), case
