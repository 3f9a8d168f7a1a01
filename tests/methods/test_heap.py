"""keep_heap: freed memory stays mapped, so that touching it again faults no page."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from palimpsest import heap

PROBE = """
import resource, sys, torch
from palimpsest.heap import keep_heap
torch.set_num_threads(1)
kept = [keep_heap(), keep_heap()]
def touch():
    torch.ones(50_000_000)  # 200 MB, freed at once
for _ in range(16):  # until small blocks have found places of their own, each large one may grow the heap anew
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(kept[0], kept[1], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _probe(setting: str) -> tuple[str, str, int]:
    environment = os.environ | {"PALIMPSEST_KEEP_HEAP": setting, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True, env=environment)
    first, second, faults = done.stdout.split()
    return first, second, int(faults)


@pytest.mark.skipif(not heap._has_glibc(), reason="the allocator's settings exist only in glibc on Linux")
def test_kept_heap_faults_at_most_a_fifth_of_the_pages() -> None:
    off = _probe("0")
    on = _probe("1")
    assert off[:2] == ("False", "False")
    assert on[:2] == ("True", "True")  # a second call holds too
    assert off[2] > 400  # 1 GB is touched: 244,000 small pages, or 480 huge ones
    assert on[2] <= 0.2 * off[2]


def test_import_changes_nothing_and_other_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    heap._tell_allocator.cache_clear()
    monkeypatch.delenv("PALIMPSEST_KEEP_HEAP", raising=False)
    for platform in ("darwin", "win32"):
        monkeypatch.setattr(heap.sys, "platform", platform)
        monkeypatch.setattr(heap.ctypes, "CDLL", _refuse)
        assert heap.keep_heap() is False
        heap._tell_allocator.cache_clear()


@pytest.mark.parametrize("answer", [None, "", ValueError("unrecognized configuration name"), OSError(22, "EINVAL")])
def test_musl_is_left_alone(monkeypatch: pytest.MonkeyPatch, answer: str | Exception | None) -> None:
    def confstr(name: str) -> str | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    heap._tell_allocator.cache_clear()
    monkeypatch.delenv("PALIMPSEST_KEEP_HEAP", raising=False)
    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.setattr(heap.os, "confstr", confstr, raising=False)
    monkeypatch.setattr(heap.ctypes, "CDLL", _refuse)
    assert heap.keep_heap() is False
    heap._tell_allocator.cache_clear()


def test_allocator_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            def mallopt(name: int, value: int) -> int:
                calls.append((name, value))
                return 1

            self.mallopt = mallopt

    heap._tell_allocator.cache_clear()
    monkeypatch.setattr(heap, "_has_glibc", lambda: True)
    monkeypatch.setattr(heap.ctypes, "CDLL", Library)
    monkeypatch.setenv("PALIMPSEST_KEEP_HEAP", "0")
    assert heap.keep_heap() is False and calls == []
    monkeypatch.delenv("PALIMPSEST_KEEP_HEAP")
    assert heap.keep_heap() is True and heap.keep_heap() is True
    assert calls == [(-4, 0), (-1, -1), (-2, 256 * 2**20)]
    heap._tell_allocator.cache_clear()


def _refuse(name: None) -> None:
    raise AssertionError("the C library was opened")
