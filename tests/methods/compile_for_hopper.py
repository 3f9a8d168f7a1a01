"""Compiles the two kernels that make logits for an H100, which need not be there, and prints what they use.

    python compile_for_hopper.py FOLDER

Triton brings its own assembler.  Printed, as JSON: bytes of shared memory, bytes spilled from registers, and how often
the tensor cores and the tensor memory accelerator are called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from palimpsest.kernels.cut_cross_entropy import kernels, tiles


def used(function: Any, tile: tiles.Tile, fixed: dict[str, Any], folder: Path) -> dict[str, int]:
    """Of one kernel with bfloat16 matrices read by descriptors."""
    sizes = {"ROWS": tile.rows, "ENTRIES": tile.entries, "WIDTH": tile.width, "GROUP": tile.group}
    constants = {
        **sizes,
        "FLATTEN": tile.flatten,
        "TMA": True,
        "PRECISION": "ieee",
        "BIAS": True,
        "CAP": False,
        **fixed,
    }
    kinds = {
        "e": f"tensordesc<bf16[{tile.rows},{tile.width}]>",
        "c": f"tensordesc<bf16[{tile.entries},{tile.width}]>",
        "out": f"tensordesc<bf16[{tile.rows},{tile.entries}]>",
        "bias": "*bf16",
        "targets": "*i64",
        "blocks": "*fp16",
        **dict.fromkeys(("largest", "total", "lse", "of_all", "of_target"), "*fp32"),
        **dict.fromkeys(("scale", "softcap"), "fp32"),
    }
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    whole = [i for i, name in enumerate(names) if signature[name].startswith("*") or name in ("d", "e_stride")]
    source = ASTSource(function, signature, constants, {(i,): [["tt.divisibility", 16]] for i in whole})
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    text = folder / f"{function.__name__}.ptx"
    text.write_text(compiled.asm["ptx"])
    assembler = next(Path(triton.__file__).parent.rglob("ptxas"))
    command = [str(assembler), "-v", "-arch=sm_90a", str(text), "-o", os.devnull]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = [
        int(line.split("bytes spill stores")[0].split(",")[-1]) for line in report.splitlines() if "spill" in line
    ]
    return {
        "shared": compiled.metadata.shared,
        "spilled": max(spilled, default=0),
        "serialized": report.count("instructions are serialized"),
        "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
        "tma": compiled.asm["ptx"].count("cp.async.bulk.tensor"),
    }


def main(folder: Path) -> None:
    chosen = tiles._HOPPER
    log_sum = used(kernels.log_sum_kernel, chosen.log_sum, {"KEEP": True, "BLOCK": 1024}, folder)
    print(json.dumps({"log_sum": log_sum, "signal": used(kernels.signal_kernel, chosen.signal, {}, folder)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
