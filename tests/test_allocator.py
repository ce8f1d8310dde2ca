"""Freed blocks come back from the heap instead of from the system."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import platform, psutil, resource, torch
from vireid.allocator import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
with kept_memory(torch.device("cpu")):
    with kept_memory(torch.device("cpu")):
        faults()
    kept = faults()
    torch.ones(50_000_000)
    within = psutil.Process().memory_info().rss
print(platform.libc_ver()[0], given_back, kept, within - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_large_blocks_are_cleared_by_the_system_once_and_given_back_in_the_end():
    tuning = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(tuning)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=plain)
    libc, given_back, kept, returned = done.stdout.split()
    if libc != "glibc":
        pytest.skip(libc)
    assert 4 * int(kept) < int(given_back)
    assert int(returned) > 150_000_000
