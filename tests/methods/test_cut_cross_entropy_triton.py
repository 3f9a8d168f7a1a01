"""Runs the cases of cut cross-entropy and its bench in Triton's interpreter, and compiles for cards that are not here.

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


@pytest.mark.parametrize("name", ["cut_cross_entropy_cases.py", "cut_cross_entropy_bench_cases.py"])
def test_the_kernels_in_the_interpreter(name: str) -> None:
    cases = str(HERE / name)
    done = run(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", cases], TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path: Path) -> None:
    """Without spilling registers, by tensor cores, and with warps that only load where asked for."""
    script, table = HERE.parents[1] / "bench" / "compiled_kernels.py", tmp_path / "table.json"
    done = run([str(script), "--demanding", "--json", str(table)], TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(table.read_text())
    assert {row["dtype"] for row in rows} == {"bf16", "fp32"} and {row["capability"] for row in rows} == {89, 90}
    assert sum(row["tile"]["specialize"] for row in rows) >= 3
    for row in rows:
        assert row["used"] or row["tile"]["specialize"]
        assert row["shared"] <= row["room"] and row["spilled"] == row["serialized"] == 0, row
        assert (row["tensor_cores"] > 0) == (row["dtype"] != "fp32") and (row["tma"] > 0) == row["tma_asked"], row
        half = row["kernel"].startswith("kept") and not (row["kernel"] == "kept_signal" and row["options"]["BIAS"])
        assert row["narrow"] == 0 or not half, row  # of the filter's G, 16 bytes are moved at a time
        assert (row["specialized"] > 0) == row["tile"]["specialize"], row


@pytest.mark.parametrize(
    ("capability", "large"), [((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 3), True), ((12, 0), False)]
)
def test_large_tiles_are_for_cards_with_room_for_them(
    capability: tuple[int, int], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = tiles.tiles_for(torch.device("cuda"), torch.bfloat16)
    assert found is (tiles._HOPPER if large else tiles._AMPERE)
