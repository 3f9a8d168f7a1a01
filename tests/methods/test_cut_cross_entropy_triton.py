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


def test_the_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    done = run([str(HERE / "compile_for_hopper.py"), str(tmp_path)], TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    for name, used in json.loads(done.stdout.splitlines()[-1]).items():
        assert used["shared"] <= 227 * 1024 and used["spilled"] == 0 and used["serialized"] == 0, (name, used)
        assert used["wgmma"] > 0 and used["tma"] > 0
