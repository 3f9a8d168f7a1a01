"""Tries tiles of the kernels, for ``cross_entropy.py``.

A tile whose warps divide the work among them (``specialize``) waits for barriers that the compiler has set: wrongly set
ones would never be passed.  Such tiles are first tried on a small problem by another process, which may be ended:

    python bench/_tile_sweep.py

It prints a line of JSON for each that came through with the right values.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _clock import timed
from palimpsest.kernels.cut_cross_entropy import driver, filtered, tiles
from palimpsest.kernels.cut_cross_entropy.tiles import Tile, Tiles

PATIENCE = 90  # seconds for the other process: most of it is starting and compiling


def use(chosen: Tiles) -> None:
    """For this process."""
    for module in (driver, filtered):
        module.tiles_for = lambda device, dtype: chosen  # type: ignore[attr-defined]


def filtered_run(e: Tensor, c: Tensor, targets: Tensor, eps: float) -> Callable[[], Any] | None:
    """The backward of the filter, whose kernels lean on each other; None where it drops next to nothing."""
    head, ones = driver.Head(c, None, None, 1.0), torch.ones(len(e), device=e.device)
    lse, blocks = driver.log_sums(e, head, keep=True)
    assert blocks is not None
    upstream = driver.Upstream(targets, lse, ones, ones)
    run = partial(filtered.filtered_gradients, e, head, upstream, (True, True, False), blocks, eps, None)
    return run if run() is not None else None


def runs(e: Tensor, c: Tensor, targets: Tensor) -> dict[str, Callable[[], list[Tensor]]]:
    """What the two kernels of the exact way make: log-sum-exps; a chunk of G."""
    columns, head = min(4096, len(c)), driver.Head(c, None, None, 1.0)
    part, out = head.between(0, columns), torch.empty(len(e), columns, dtype=e.dtype, device=e.device)
    ones = torch.ones(len(e), device=e.device)
    upstream = driver.Upstream(targets, 8 * ones, ones, ones)

    def log_sum() -> list[Tensor]:
        return [driver.log_sums(e, head)[0]]

    def signal() -> list[Tensor]:
        driver.signal(e, part, 0, upstream, out)
        return [out]

    return {"log_sum": log_sum, "signal": signal}


def tune(
    e: Tensor, c: Tensor, targets: Tensor, eps: float, trusted: list[tuple[str, Tile]], end: float, repeats: int = 5
) -> Iterator[dict[str, Any]]:
    """Sets the fastest tiles for this process, as they are found, and yields what each of them took."""
    fixed = tiles.tiles_for(e.device, e.dtype)
    tried: dict[str, Callable[[], Any] | None] = {**runs(e, c, targets)}
    try:
        by_filter = filtered_run(e, c, targets, eps)
    except Exception as error:  # the exact way is tried all the same
        by_filter = None
        yield {"kernel": "those of the filter", "error": f"{type(error).__name__}: {error}"[:500]}
    tried |= dict.fromkeys([name for name in tiles.CANDIDATES if name not in tried], by_filter)
    for name, run in tried.items():
        if run is None:
            continue
        usual = getattr(fixed, name)
        best, least = usual, float("inf")
        for tile in {usual: None, **dict.fromkeys(tiles.CANDIDATES[name])}:
            if (tile.specialize and (name, tile) not in trusted) or time.monotonic() > end:
                continue
            use(replace(fixed, **{name: tile}))
            try:
                took = timed(run, e.device, repeats)
            except Exception as error:  # a tile too large for the chip is no candidate
                print(f"    {name} {tile}: {type(error).__name__}", flush=True)
                yield {"kernel": name, **asdict(tile), "error": type(error).__name__}
                continue
            yield {"kernel": name, **asdict(tile), "ms": took}
            if tile == usual:
                print(f"    {name} as it comes: {took:.3f} ms", flush=True)
            if took < least:
                best, least = tile, took
        print(f"    {name}: {best} {least:.3f} ms", flush=True)
        fixed = replace(fixed, **{name: best})
        use(fixed)


def trusted(patience: float = PATIENCE) -> list[tuple[str, Tile]]:
    """The kernels and tiles of specialized warps that gave the right values in another process, in time."""
    command = [sys.executable, str(Path(__file__))]
    try:
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=patience, check=False).stdout
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{") and line.endswith("}")]
    return [(row["kernel"], Tile(**row["tile"])) for row in found]


def main() -> None:
    """Small, and with rows and entries that fill no tile."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, d, v = (1000, 576, 9000) if device.type == "cuda" else (20, 48, 150)
    seed = torch.Generator(device).manual_seed(0)
    e = torch.randn(n, d, generator=seed, device=device).bfloat16()
    c = (torch.randn(v, d, generator=seed, device=device) * d**-0.5).bfloat16()
    targets = torch.randint(0, v, (n,), generator=seed, device=device)
    fixed = tiles.tiles_for(device, e.dtype)
    head = driver.Head(c, None, None, 1.0)
    given = runs(e, c, targets)
    right = {name: [t.float().clone() for t in run()] for name, run in given.items()}
    blocks = driver.log_sums(e, head, keep=True)[1]
    for name in given:
        for tile in (tile for tile in tiles.CANDIDATES[name] if tile.specialize):
            use(replace(fixed, **{name: tile}))
            try:
                pairs = zip(given[name](), right[name])
                same = all(torch.allclose(found.float(), wanted, rtol=1e-2, atol=1e-3) for found, wanted in pairs)
                if name == "log_sum" and same:
                    kept = driver.log_sums(e, head, keep=True)[1]
                    same = kept is not None and blocks is not None and torch.allclose(kept, blocks, rtol=1e-2)
            except Exception as error:
                print(f"    {name} {tile}: {type(error).__name__}", file=sys.stderr)
                continue
            if same:
                print(json.dumps({"kernel": name, "tile": asdict(tile)}), flush=True)
            else:
                print(f"    {name} {tile}: wrong values", file=sys.stderr)


if __name__ == "__main__":
    main()
