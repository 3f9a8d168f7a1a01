"""Compiles the kernels for an H100 and a consumer card, which need not be there, and prints what they use.

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


def used(
    function: Any, tile: tiles.Tile, fixed: dict[str, Any], folder: Path, *, tma: bool = True, capability: int = 90
) -> dict[str, int]:
    """Of one kernel with bfloat16 matrices, read by descriptors or by pointers."""
    sizes = {"ROWS": tile.rows, "ENTRIES": tile.entries, "WIDTH": tile.width, "GROUP": tile.group}
    options = {"FLATTEN": tile.flatten, "TMA": tma, "PRECISION": "ieee", "BIAS": True, "CAP": False}
    names = function.arg_names
    constants = {name: value for name, value in {**sizes, **options, **fixed}.items() if name in names}
    kinds = {
        "e": f"tensordesc<bf16[{tile.rows},{tile.width}]>" if tma else "*bf16",
        "c": f"tensordesc<bf16[{tile.entries},{tile.width}]>" if tma else "*bf16",
        "out": f"tensordesc<bf16[{tile.rows},{tile.entries}]>" if tma else "*bf16",
        "blocks": "*fp16",
        "pairs": "*i32",
        **dict.fromkeys(("bias", "g", "into"), "*bf16"),
        **dict.fromkeys(("targets", "table"), "*i64"),
        **dict.fromkeys(("largest", "total", "lse", "of_all", "of_target", "bias_sums", "sums"), "*fp32"),
        **dict.fromkeys(("scale", "softcap", "factor", "bias_factor"), "fp32"),
    }
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    aligned = ("d", "e_stride", "c_stride", "out_stride", "into_stride")
    whole = [i for i, name in enumerate(names) if signature[name].startswith("*") or name in aligned]
    source = ASTSource(function, signature, constants, {(i,): [["tt.divisibility", 16]] for i in whole})
    compiler = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=compiler)
    report = assembled(compiled.asm["ptx"], folder / f"{function.__name__}-{capability}.ptx", capability)
    spilled = [
        int(line.split("bytes spill stores")[0].split(",")[-1]) for line in report.splitlines() if "spill" in line
    ]
    return {
        "shared": compiled.metadata.shared,
        "spilled": max(spilled, default=0),
        "serialized": report.count("instructions are serialized"),
        "tensor_cores": compiled.asm["ptx"].count("wgmma.mma_async") + compiled.asm["ptx"].count("mma.sync"),
        "tma": compiled.asm["ptx"].count("cp.async.bulk.tensor"),
    }


def assembled(code: str, file: Path, capability: int) -> str:
    """What Triton's assembler says of a kernel."""
    file.write_text(code)
    assembler = next(Path(triton.__file__).parent.rglob("ptxas"))
    chip = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    command = [str(assembler), "-v", f"-arch={chip}", str(file), "-o", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def main(folder: Path) -> None:
    large, small = tiles._HOPPER, tiles._AMPERE
    plain: dict[str, Any] = {"tma": False}
    found = {
        "log_sum": used(kernels.log_sum_kernel, large.log_sum, {"KEEP": True, "BLOCK": 1024}, folder),
        "signal": used(kernels.signal_kernel, large.signal, {}, folder),
        "kept_signal": used(kernels.kept_signal_kernel, large.kept_signal, {"BIAS": False}, folder, **plain),
        "kept_weight": used(kernels.kept_weight_kernel, large.kept_weight, {}, folder, **plain),
        "kept_hidden": used(kernels.kept_hidden_kernel, large.kept_hidden, {}, folder, **plain),
        "consumer signal": used(kernels.signal_kernel, small.signal, {}, folder, **plain, capability=89),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
