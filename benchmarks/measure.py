"""Time and peak memory of a call, and the line that says where the numbers were made."""

import datetime
import os
import time
from pathlib import Path

import psutil

from vireid.environment import cpu_model, git_commit


def print_header():
    """Print date, commit and processor."""
    print(f"{datetime.date.today()}  commit {git_commit() or 'none'}  {cpu_model()}, {os.cpu_count()} CPUs")


def measure(call, repeats=3):
    """Return the best seconds of several calls, the MB that the first one took at its peak, and its result."""
    before = psutil.Process().memory_info().rss
    _reset_peak()
    started = time.perf_counter()
    result = call()
    seconds, peak = [time.perf_counter() - started], _peak() - before
    for _ in range(repeats - 1):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds), max(0, peak) / 1e6, result


def print_row(name, seconds, megabytes, plain_seconds=None):
    """Print one line of the table; the ratio is the plain way's time over this one's."""
    ratio = "" if plain_seconds is None else f"{plain_seconds / seconds:10.1f}x"
    print(f"{name:58s}{seconds:10.3f} s{megabytes:10.0f} MB{ratio}", flush=True)


def _reset_peak():
    """Make Linux count the peak of resident memory from here."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
