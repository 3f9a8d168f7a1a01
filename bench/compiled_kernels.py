"""What the kernels of ``linear_cross_entropy`` use on cards that need not be there: Triton brings its own assembler.

    python bench/compiled_kernels.py [--demanding] [--json PATH]

A line for every kernel, kind of number, way to read matrices, tile and set of options: registers of a thread, bytes
that it spills, kilobytes of shared memory, and how many instructions call the tensor cores, call the tensor memory
accelerator, change the registers of a warp (``set``: warp specialization), and read or write two bytes alone.  The
tiles are those that are used and those that ``bench/cross_entropy.py`` tries.  ``--demanding`` leaves out most of the
latter, and options that ask for less than others do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from palimpsest.kernels.cut_cross_entropy import kernels, tiles

PLAIN, EVERYTHING = {"BIAS": False, "CAP": False}, {"BIAS": True, "CAP": True}
OPTIONS = (PLAIN, {"BIAS": True, "CAP": False}, {"BIAS": False, "CAP": True}, EVERYTHING)
ROOM = {89: 99, 90: 227}  # KB of shared memory that a program may have, by capability


@dataclass(frozen=True)
class Variant:
    """One compilation."""

    kernel: str
    tile: tiles.Tile
    options: dict[str, bool]
    dtype: str = "bf16"
    tma: bool = True
    capability: int = 90
    used: bool = True
    """By default; others are tried."""

    def constants(self) -> dict[str, Any]:
        """Everything that a kernel is compiled for."""
        tile = self.tile
        sizes = {"ROWS": tile.rows, "ENTRIES": tile.entries, "WIDTH": tile.width, "GROUP": tile.group}
        ways = {"HALVES": tile.halves, "FLATTEN": tile.flatten, "SPECIALIZE": tile.specialize, "TMA": self.tma}
        return {**sizes, **ways, "KEEP": False, "BLOCK": 1024, "PRECISION": "ieee", **self.options}

    def described(self) -> tuple[str, ...]:
        """The matrices that come as descriptors."""
        if not self.tma or self.tile.specialize:
            return ()
        return ("c",) if self.kernel == "kept_signal" else ("e", "c", "out")

    def aligned(self) -> tuple[str, ...]:
        """Numbers that are multiples of 16; where a card with descriptors makes logits by pointers, they are not."""
        if not self.tma and self.capability >= 90 and self.kernel in ("log_sum", "signal", "kept_signal"):
            return ()
        return ("d", "e_stride", "c_stride", "out_stride", "into_stride")

    def kinds(self) -> dict[str, str]:
        """Of the arguments that are not 32-bit integers."""
        tile, number = self.tile, f"*{self.dtype}"
        descriptors = {
            "e": f"tensordesc<{self.dtype}[{tile.rows},{tile.width}]>",
            "c": f"tensordesc<{self.dtype}[{tile.entries},{tile.width}]>",
            "out": f"tensordesc<{self.dtype}[{tile.rows},{tile.entries // (1 + tile.halves)}]>",
        }
        return {
            **dict.fromkeys(("e", "c", "out", "bias", "g", "into"), number),
            **({name: kind for name, kind in descriptors.items() if name in self.described()}),
            "blocks": "*fp16",
            "pairs": "*i32",
            **dict.fromkeys(("targets", "table"), "*i64"),
            **dict.fromkeys(("largest", "total", "lse", "of_all", "of_target", "bias_sums", "sums"), "*fp32"),
            **dict.fromkeys(("scale", "softcap", "factor", "bias_factor"), "fp32"),
        }


def variants(demanding: bool) -> Iterator[Variant]:
    """In the order of the table."""
    large, single = tiles._HOPPER, tiles._FLOAT32
    for dtype in ("bf16",) if demanding else ("bf16", "fp16"):
        yield from of_logits(large, dtype, OPTIONS, (True,) if demanding else (False, True))
        for options in OPTIONS:
            yield Variant("kept_signal", large.kept_signal, options, dtype)
        yield from of_filter(large, dtype)
    yield from of_logits(
        single, "fp32", (EVERYTHING,) if demanding else OPTIONS, (True,) if demanding else (False, True)
    )
    small = tiles._AMPERE
    yield Variant("log_sum", small.log_sum, {**EVERYTHING, "KEEP": True}, tma=False, capability=89)
    yield Variant("signal", small.signal, EVERYTHING, tma=False, capability=89)
    yield Variant("kept_signal", small.kept_signal, EVERYTHING, tma=False, capability=89)
    yield from of_filter(small, "bf16", capability=89)
    for kernel, tried in tiles.CANDIDATES.items():
        for tile in tried:
            if tile.specialize or not demanding:
                tma = kernel not in ("kept_weight", "kept_hidden")
                for options in (EVERYTHING,) if demanding else (PLAIN, EVERYTHING):
                    keep = {"KEEP": True} if kernel == "log_sum" and options is EVERYTHING else {}
                    yield Variant(kernel, tile, {**options, **keep}, tma=tma, used=False)


def of_logits(
    chosen: tiles.Tiles, dtype: str, asked: tuple[dict[str, bool], ...], keeps: tuple[bool, ...]
) -> Iterator[Variant]:
    """The two kernels of the exact way."""
    for tma in (True, False):
        log_sum, signal = (tile if tma else tile.by_pointers() for tile in (chosen.log_sum, chosen.signal))
        for options in asked:
            for keep in keeps:
                yield Variant("log_sum", log_sum, {**options, "KEEP": keep}, dtype, tma)
            yield Variant("signal", signal, options, dtype, tma)


def of_filter(chosen: tiles.Tiles, dtype: str, capability: int = 90) -> Iterator[Variant]:
    """The two kernels that make gradients from what the filter keeps."""
    yield Variant("kept_weight", chosen.kept_weight, {"BIAS": True}, dtype, False, capability)
    yield Variant("kept_hidden", chosen.kept_hidden, {}, dtype, False, capability)


def compiled(variant: Variant) -> dict[str, int]:
    """What one of them uses."""
    function = getattr(kernels, f"{variant.kernel}_kernel")
    names, kinds = function.arg_names, variant.kinds()
    constants = {name: value for name, value in variant.constants().items() if name in names}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    whole = [i for i, name in enumerate(names) if signature[name].startswith("*") or name in variant.aligned()]
    source = ASTSource(function, signature, constants, {(i,): [["tt.divisibility", 16]] for i in whole})
    compiler = {"num_warps": variant.tile.warps, "num_stages": variant.tile.stages}
    found = triton.compile(source, target=GPUTarget("cuda", variant.capability, 32), options=compiler)
    code = found.asm["ptx"]
    report = assembled(code, variant.capability)

    def most(pattern: str) -> int:
        return max((int(number) for number in re.findall(pattern, report)), default=0)

    return {
        "registers": most(r"Used (\d+) registers"),
        "spilled": most(r"(\d+) bytes spill stores"),
        "shared": found.metadata.shared,
        "serialized": report.count("instructions are serialized"),
        "tensor_cores": code.count("wgmma.mma_async") + code.count("mma.sync"),
        "tma": code.count("cp.async.bulk.tensor"),
        "specialized": code.count("setmaxnreg"),
        "narrow": len(re.findall(r"(?:ld|st)\.global[.\w:]*\.b16", code)),
    }


def assembled(code: str, capability: int) -> str:
    """What Triton's assembler says of a kernel."""
    assembler = next(Path(triton.__file__).parent.rglob("ptxas"))
    chip = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(code)
        command = [str(assembler), "-v", f"-arch={chip}", str(file), "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def line(variant: Variant, found: dict[str, int]) -> str:
    tile = variant.tile
    size = f"{tile.rows}x{tile.entries}x{tile.width}, {tile.warps} warps, {tile.stages} stages"
    flags = [name for name in ("halves", "flatten", "specialize") if getattr(tile, name)]
    asked = [name.lower() for name, value in variant.options.items() if value]
    way = "TMA" if variant.tma else "pointers"
    what = f"{variant.kernel:<12}{variant.capability:>3} {variant.dtype} {way:<9}{size:<33}{' '.join(flags):<15}"
    return (
        f"{what}{' + '.join(asked):<17}{found['registers']:>5}{found['spilled']:>8}{found['shared'] / 1024:>8.1f}"
        f"{found['tensor_cores']:>7}{found['tma']:>5}{found['specialized']:>5}{found['narrow']:>7}"
        f"{'' if variant.used else '  tried'}"
    )


HEADER = f"{'':<82}{'options':<17}{'regs':>5}{'spilled':>8}{'KB':>8}{'mma':>7}{'TMA':>5}{'set':>5}{'2 byte':>7}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demanding", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    print(f"Triton {triton.__version__}\n{HEADER}")
    rows = []
    for variant in variants(options.demanding):
        found = compiled(variant)
        print(line(variant, found), flush=True)
        rows.append({**asdict(variant), "tma_asked": variant.tma, "room": ROOM[variant.capability] * 1024, **found})
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
