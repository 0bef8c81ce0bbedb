"""Memory of a CPU run that is freed and asked for again at every step.

glibc returns a large block to the system when it is freed, and takes it back with one page fault per 4 KiB: for the
activations of a video network that is a tenth to a fifth of a step (benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

MMAP_MAX, TRIM_THRESHOLD, LARGEST = -4, -1, 2**31 - 1
"""Of malloc.h: how many blocks may be maps of their own; how much free memory the heap may keep."""

OWN_WORD = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES")
"""Who sets one of these knows better."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees. True where that took effect: glibc, and nothing else asked for.

    Values do not change, and the most that is held at a time hardly (blocks of unlike sizes leave gaps).
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in OWN_WORD):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(MMAP_MAX, 0) == 1 and mallopt(TRIM_THRESHOLD, LARGEST) == 1
