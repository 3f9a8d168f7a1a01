"""Files of tensors: what is read is what was written, and the same tensors make the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.checkpoint import read_tensors, write_tensors


@pytest.mark.parametrize("constants", [{}, {"scale": 0.5, "why": "a test", "still": ["norm"]}])
def test_the_same_tensors_make_the_same_bytes(tmp_path: Path, constants: dict[str, Any]) -> None:
    weight = torch.randn(3, 4)
    tensors = {"weight": weight, "tied": weight, "bias": torch.randn(4)}
    written = set()
    for number in range(16):
        write_tensors(tmp_path / f"{number}.safetensors", tensors, constants)
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
    found, kept = read_tensors(tmp_path / "0.safetensors")
    assert kept == constants and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
