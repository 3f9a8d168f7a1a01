"""Makes Triton 3.6's interpreter compute what a chip does; to be imported before a kernel runs.

It turns arrays of one element into integers, which numpy 2.4 refuses; it multiplies the bits of bfloat16 numbers as if
they were integers; and it cuts float32 off to bfloat16 where a chip rounds to nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["repair"]


def _raised(value: Any) -> Any:
    if value.dtype.scalar != tl.bfloat16:
        return value
    return interpreter.TensorHandle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _rounded(data: Any) -> Any:
    """The upper half of float32 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(data).view(np.uint32)
    up = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(data), np.uint32(0x7FC0), up).astype(np.uint16)


def repair() -> None:
    """Once a process."""
    builder: Any = interpreter.InterpreterBuilder
    patch, cast, dot = interpreter._patch_lang_tensor, builder.cast_impl, builder.create_dot

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def cast_impl(self: Any, value: Any, kind: Any) -> Any:
        if value.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            return interpreter.TensorHandle(_rounded(value.data), tl.bfloat16)
        return cast(self, value, kind)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        return dot(self, _raised(a), _raised(b), d, *options)

    interpreter._patch_lang_tensor = patched
    builder.cast_impl, builder.create_dot = cast_impl, create_dot
