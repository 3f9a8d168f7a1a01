"""Keep freed memory in the process, so that the next training step finds its pages already there.

By default glibc gives every large block straight back to the kernel when it is freed.  A training step on CPU frees
and asks for the same hundreds of megabytes (logits, activations, gradients) at every step, and each time the kernel
must find, zero and map every 4 KiB page again on its first touch.  Those page faults can cost as much as the
arithmetic around them.  ``keep_heap`` tells the allocator to serve all blocks from its heap and never to shrink it.
The price: the process keeps its peak memory until it ends or ``give_back`` is called, and that peak is higher in the
first steps, until small blocks have found places that do not split the large ones.

See: mallopt(3), the parameters M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

__all__ = ["give_back", "keep_heap", "keeps_heap"]

# From <malloc.h>; they are part of glibc's binary interface.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4

NEVER = -1  # mallopt(3): a trim threshold of -1 turns trimming off; the largest C int would still trim above 2 GiB
TOP_PAD_BYTES = 256 * 2**20  # grow in large steps: fewer system calls, and the blocks of one step lie together


def keep_heap() -> bool:
    """Make glibc's allocator keep freed memory for the rest of the process; True where that holds after the call.

    False, and nothing is changed, outside Linux with glibc and where the environment has PALIMPSEST_KEEP_HEAP=0.
    Call it once before the first large tensor (again does nothing).  Memory that is already mapped apart stays so.
    """
    if os.environ.get("PALIMPSEST_KEEP_HEAP") == "0":
        return False
    return _tell_allocator()


def keeps_heap() -> bool:
    """Whether ``keep_heap`` was called and holds; nothing is changed."""
    return _tell_allocator.cache_info().currsize > 0 and _tell_allocator()


def give_back() -> None:
    """Hand the pages of freed memory to the system, this once (malloc_trim(3)); nothing outside Linux with glibc."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


@cache
def _tell_allocator() -> bool:
    if not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    accepted = [mallopt(name, value) == 1 for name, value in settings]  # all three, whatever the first answers
    return all(accepted)


def _has_glibc() -> bool:
    if sys.platform != "linux":
        return False
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):  # musl does not know the name
        return False
    return version is not None and version.startswith("glibc")
