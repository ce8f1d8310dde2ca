"""Seconds to open a manifest of a million images, beside a plain row-by-row reader."""

import argparse
import csv
import datetime
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from vireid.data import open_dataset
from vireid.records import Modality


def write(folder, rows):
    """Write a manifest with every column: 100 images an identity, six cameras."""
    rng = np.random.default_rng(0)
    number = np.arange(rows)
    pd.DataFrame(
        {
            "path": [f"{n // 1000:05d}/{n:08d}.jpg" for n in number],
            "pid": number // 100,
            "camid": rng.integers(1, 7, rows),
            "modality": np.array(["visible", "infrared"])[rng.integers(0, 2, rows)],
            "split": np.array(["train", "test"])[rng.integers(0, 2, rows)],
            "timestamp": rng.uniform(0, 1e6, rows).round(3),
        }
    ).to_csv(folder / "manifest.csv", index=False)


def read_plainly(folder):
    """Read the same columns with the csv module, checking each row."""
    seen, table = set(), []
    with (folder / "manifest.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["path"] in seen or row["path"].startswith("/") or ".." in row["path"].split("/"):
                raise ValueError(row)
            seen.add(row["path"])
            numbers = (int(row["pid"]), int(row["camid"]), Modality.parse(row["modality"]), float(row["timestamp"]))
            table.append((row["path"], *numbers, row["split"]))
    return table


def seconds(function, *arguments):
    """Time one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def machine():
    """Name the CPU, the date and the commit."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": ?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    model = cpu.partition(": ")[2]
    return f"{datetime.date.today()}, commit {commit or 'none'}, {model}, Python {platform.python_version()}"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, rows)
        ours = min(seconds(open_dataset, "manifest", folder) for _ in range(3))
        plain = seconds(read_plainly, folder)
    print(machine())
    print(f"{'reader':28} {'rows':>10} {'seconds':>8} {'ratio':>6}")
    print(f"{'open_dataset (best of 3)':28} {rows:10,} {ours:8.2f} {plain / ours:5.1f}x")
    print(f"{'csv module, row by row':28} {rows:10,} {plain:8.2f} {1:5.1f}x")


if __name__ == "__main__":
    main()
