"""Runs ``cut_cross_entropy_cases.py`` in Triton's interpreter, and compiles for a card that is not there.

Triton decides when it is imported whether to compile or to interpret, so both get a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from palimpsest.kernels.cut_cross_entropy import tiles

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not to be had for this system")


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_kernels_in_the_interpreter() -> None:
    cases = str(HERE / "cut_cross_entropy_cases.py")
    done = run(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", cases], TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path: Path) -> None:
    done = run([str(HERE / "compile_for_hopper.py"), str(tmp_path)], TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    for name, used in json.loads(done.stdout.splitlines()[-1]).items():
        room = 99 if name.startswith("consumer") else 227  # KB of shared memory that a program may have
        assert used["shared"] <= room * 1024 and used["spilled"] == 0 and used["serialized"] == 0, (name, used)
        assert used["tensor_cores"] > 0 and (used["tma"] > 0) == (name in ("log_sum", "signal"))


@pytest.mark.parametrize(
    ("capability", "large"), [((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 3), True), ((12, 0), False)]
)
def test_large_tiles_are_for_cards_with_room_for_them(
    capability: tuple[int, int], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = tiles.tiles_for(torch.device("cuda"), torch.bfloat16)
    assert found is (tiles._HOPPER if large else tiles._AMPERE)
