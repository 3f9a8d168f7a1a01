"""Runs ``cut_cross_entropy_cases.py`` in Triton's interpreter.

Triton decides when it is imported whether to compile or to interpret, so the cases get a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cut_cross_entropy_cases.py")


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not to be had for this system")
def test_the_kernels_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
