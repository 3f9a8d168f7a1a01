"""Files of tensors: what is read is what was written, and the same tensors make the same bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.checkpoint import read_tensors, write_json, write_tensors


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


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_who_may_read_a_file_follows_the_umask(tmp_path: Path, umask: int) -> None:
    """Over a file that was private, too."""
    before = os.umask(umask)
    try:
        for _ in range(2):
            write_tensors(tmp_path / "model.safetensors", {"weight": torch.ones(2)})
            write_json(tmp_path / "config.json", {"a": 1})
            for file in tmp_path.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file.name
                file.chmod(0o600)
    finally:
        os.umask(before)
