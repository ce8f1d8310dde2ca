"""Freed memory stays with a process whose network runs on the CPU.

glibc returns a large block to the system when it is freed and maps a new one for the next. A training step frees
hundreds of maps of tens of megabytes, and the system clears every page of each anew: a seventh of the step, and more on
a busy machine (`benchmarks/training.py`). Under another allocator (jemalloc, tcmalloc, musl) there is nothing to set.
"""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of mallopt(3), numbered as in glibc's malloc.h."""


def keep_freed_memory(device: torch.device) -> None:
    """From here on, serve large blocks from the heap and never shrink it, when `device` is the CPU."""
    if device.type != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
