"""The bench of cross-entropy with Triton's interpreter: its rows, its sweep over tiles, and what is left of a cut run.

Run by ``test_cut_cross_entropy_triton.py`` in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import triton_interpreter
from cut_cross_entropy_cases import compare, problem
from test_cut_cross_entropy import _bench
from torch import Tensor

from palimpsest.kernels.cut_cross_entropy import driver, filtered, tiles
from palimpsest.kernels.cut_cross_entropy.tiles import Tile

triton_interpreter.repair()

PLAIN, LARGE = Tile(16, 64, 32), Tile(16, 128, 32)
WARPED = Tile(16, 64, 32, warps=4, halves=False, specialize=True)


def test_the_bench_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = _bench("cross_entropy")
    bench.main(["--shapes", "tiny", "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ours = [r for r in rows if r.get("way", "").startswith("ours")]
    assert len(ours) == 6 and all(r["of_hidden"] < 0.01 and r["of_weight"] < 0.01 for r in ours)
    assert [round(r["loss"], 2) for r in ours if r["logits"] == "trained"] == [1.5] * 3
    assert "products" in capsys.readouterr().out


@pytest.mark.parametrize("width", [48, 37])  # by descriptors and by pointers
def test_tiles_that_the_bench_may_choose_give_the_same(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One loop of tiles and sums, warps that only load, and float32 products that the user allows to be shorter."""
    e, c, targets, bias = problem(width=width)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert driver.precision(e.dtype) == "tf32" and driver.precision(torch.bfloat16) == "ieee"
    fixed = driver.tiles_for(e.device, e.dtype)

    def by(**changes: int) -> list[Tensor]:
        tiles = replace(fixed, **{n: replace(getattr(fixed, n), **changes) for n in ("log_sum", "signal")})
        monkeypatch.setattr(driver, "tiles_for", lambda device, dtype: tiles)
        return compare(e, c, targets, bias, softcap=9.0, filter_eps=0.01)

    plain = by(halves=False)
    if width == 48:
        for changes in ({"flatten": True}, {"specialize": True, "warps": 4}):
            assert all(torch.equal(a, b) for a, b in zip(plain, by(halves=False, **changes), strict=True))
    else:
        by(halves=False, specialize=True, warps=4)  # by other tiles: nothing can be specialized without descriptors


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for module in (driver, filtered):
        monkeypatch.setattr(module, "tiles_for", driver.tiles_for)  # to be put back
    tried = (PLAIN, LARGE, WARPED)
    monkeypatch.setattr(tiles, "CANDIDATES", {"log_sum": tried, "signal": tried, "kept_hidden": (LARGE,)})
    return _bench("_tile_sweep")


def test_the_fastest_tiles_are_used(sweep: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warps that could wait for ever only where another process has seen them end."""
    times = iter([5.0, 3.0, 4.0, 9.0, 8.0, 7.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(sweep, "timed", lambda run, *_: (run(), next(times))[1])
    monkeypatch.setattr(driver, "BLOCK", 64)
    e, c, targets, _ = problem((20,), entries=400, sharp=9.0, dtype=torch.bfloat16)
    fixed = driver.tiles_for(e.device, e.dtype)
    found = list(sweep.tune(e, c, targets, 0.1, [("signal", WARPED)], time.monotonic() + 60))
    assert [(row["kernel"], row["entries"], row["specialize"]) for row in found] == [
        *(("log_sum", entries, False) for entries in (64, 64, 128)),
        *(("signal", entries, False) for entries in (64, 64, 128)),
        ("signal", 64, True),
        *(("kept_hidden", entries, False) for entries in (64, 128)),
    ]
    chosen = driver.tiles_for(e.device, e.dtype)
    assert chosen == replace(fixed, log_sum=PLAIN, signal=WARPED) == filtered.tiles_for(e.device, e.dtype)
    assert not list(sweep.tune(e, c, targets, 0.1, [], time.monotonic() - 1)), "the time is up"


def test_tiles_are_trusted_for_right_values_in_time(
    sweep: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.main()
    late = subprocess.TimeoutExpired("sweep", 1, output=capsys.readouterr().out.encode() + b'{"kernel": "si')

    def cut_short(*_: object, **__: object) -> None:
        raise late

    monkeypatch.setattr(sweep.subprocess, "run", cut_short)
    assert sweep.trusted() == [("log_sum", WARPED), ("signal", WARPED)]
    write = driver.signal
    wrong = iter([False, True])

    def signal(*given: Tensor) -> None:
        write(*given)  # type: ignore[arg-type]
        if next(wrong):
            given[-1][3, 5] += 1

    monkeypatch.setattr(driver, "signal", signal)
    sweep.main()
    assert json.loads(capsys.readouterr().out)["kernel"] == "log_sum"


def test_what_was_measured_before_a_run_was_cut_short_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, file = _bench("cross_entropy"), tmp_path / "rows.json"
    write, count = Path.write_text, iter(range(9))

    def write_text(path: Path, text: str, encoding: str) -> int:
        if next(count) == 2:
            write(path, text[: len(text) // 2], encoding)
            raise KeyboardInterrupt
        return write(path, text, encoding)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(KeyboardInterrupt):
        bench.main(["--shapes", "tiny", "--repeats", "1", "--json", str(file)])
    assert len(json.loads(file.read_text())["rows"]) == 2
