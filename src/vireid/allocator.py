"""Freed memory stays with the process while a network runs on the CPU.

glibc returns a large block to the system when it is freed and maps a new one for the next. A training step frees
hundreds of maps of tens of megabytes, and the system clears every page of each anew: a seventh of the step, and more on
a busy machine (`benchmarks/training.py`). Under another allocator (jemalloc, tcmalloc, musl) there is nothing to set.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Options of mallopt(3), numbered as in glibc's malloc.h."""
_MB = 2**20
_holders = 0


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Serve large blocks from a heap that does not shrink while the body runs, when `device` is the CPU.

    When the outermost body ends, as a training around its validations, free memory goes back to the system, and the
    limits are those that glibc comes to by itself in a process that has freed large blocks.
    """
    global _holders
    libc: Any = ctypes.CDLL(None) if device.type == "cpu" and sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    _holders += 1
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        _holders -= 1
        if not _holders:
            libc.mallopt(M_MMAP_MAX, 65536)
            libc.mallopt(M_MMAP_THRESHOLD, 32 * _MB)
            libc.mallopt(M_TRIM_THRESHOLD, 64 * _MB)
            libc.malloc_trim(0)
