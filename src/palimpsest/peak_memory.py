"""How much memory one stage takes at its peak, whatever the process took before it.

On a GPU that is PyTorch's own count of tensors.  On a CPU it is the resident memory of the whole process, and the mark
that the system keeps of its maximum knows no stages.  Where the heap keeps what is freed (see ``heap``), the process
is nowhere smaller than at its peak; so what earlier stages left is given back first, and the size at the end is the
peak.  Elsewhere nothing is told.  The system's mark is not set back, since other programs read it.
"""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from palimpsest.heap import give_back, keeps_heap

__all__ = ["PeakMemory"]


class PeakMemory:
    """Counts from here on; one at a time, since the next one gives back what this one would count."""

    def __init__(self) -> None:
        self.device = torch.cuda.is_available()
        if self.device:
            torch.cuda.reset_peak_memory_stats()
        else:
            gc.collect()
            give_back()
        self.first = None if self.device else _resident()

    def bytes(self) -> int | None:
        """The peak so far: of the device's tensors, or of the process's resident memory; None where it is not known."""
        if self.device:
            return int(torch.cuda.max_memory_allocated())
        now = _resident()
        return None if now is None or self.first is None or not keeps_heap() else max(self.first, now)


def _resident() -> int | None:
    """Resident bytes of this process on Linux (proc(5), VmRSS); None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
