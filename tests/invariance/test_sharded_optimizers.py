"""Two processes with weights that FSDP2 splits end where one process does, also by way of a state dict."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

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
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("sharded")
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
