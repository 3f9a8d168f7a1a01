"""How long something takes on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


class Clock:
    """Milliseconds between moments, on the device's own time where it has one."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        if not self.cuda:
            return (second - first) * 1e3
        second.synchronize()
        return float(first.elapsed_time(second))


def timed(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median milliseconds, after two calls that do not count."""
    clock, moments = Clock(device), []
    for _ in range(repeats + 2):
        first = clock.now()
        run()
        moments.append((first, clock.now()))
    return statistics.median(clock.between(*pair) for pair in moments[2:])
