"""Seconds to open a manifest of a million images, beside a plain row-by-row reader."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import typer

from measure import measure, print_header, print_row
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


def main(rows: int = 1_000_000):
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, rows)
        plain, plain_mb, _ = measure(lambda: read_plainly(folder), repeats=1)
        ours, ours_mb, _ = measure(lambda: open_dataset("manifest", folder))
    print_header()
    print_row(f"open_dataset, {rows:,} rows (best of 3)", ours, ours_mb, plain)
    print_row("csv module, row by row", plain, plain_mb)


if __name__ == "__main__":
    typer.run(main)
