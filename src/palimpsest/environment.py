"""What figures were made with: versions, processor, device, and the commit of the code where it lies in a checkout."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from palimpsest.processes import count

__all__ = ["commit_of", "environment", "own_commit"]


def environment() -> dict[str, object]:
    """What a reader needs to know of the machine: versions, processor, device."""
    found: dict[str, object] = {"python": platform.python_version()}
    for package in ("palimpsest", "torch", "transformers", "peft", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processors"] = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count()
    found["threads"] = torch.get_num_threads()
    if count() > 1:
        found["processes"] = count()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found


@functools.cache
def own_commit() -> str:
    """``commit_of`` this package when this process first asked: what is imported by then does not change any more."""
    return commit_of(Path(__file__).parent)


def commit_of(folder: Path) -> str:
    """The commit of the checkout that tracks ``folder``; ``unknown`` where none does.

    ``-dirty`` is added when a file below ``folder`` differs from it; evidence written elsewhere does not count.
    """
    try:
        if not _git(folder, "ls-files", "--", "."):  # installed into somebody else's checkout
            return "unknown"
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(folder, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
