"""Speed of the renderer, and the contact sheet of the documentation.

Run with: python benchmarks/synth.py [--preset synthetic-v1] [--sheet docs/images/synthetic_contact_sheet.png]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from measure import print_header
from vireid.synth import PRESETS, Preset, write_dataset
from vireid.synth.shot import HEIGHT, WIDTH, Shot, take

COLUMNS = {"visible": (1, 2, 4, 5), "near infrared": (3, 6, 3), "thermal": (7, 8, 7)}
CODES = {"visible": "visible", "near infrared": "nir", "thermal": "lwir"}
GOAL = 60


def measure(name: str, ids: int) -> Table:
    """Write `ids` identities with one process and tabulate images a second, files included."""
    write_warm_up(name)
    table = Table("preset", "images", "seconds", "images/s/core", f"ratio to {GOAL}/s")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        out = write_dataset(Path(folder) / "set", preset=name, ids=ids, workers=1)
        seconds = time.perf_counter() - start
        images = sum(1 for _ in out.rglob("*.jpg"))
    rate = images / seconds
    table.add_row(name, str(images), f"{seconds:.1f}", f"{rate:.0f}", f"{rate / GOAL:.1f}")
    return table


def write_warm_up(name: str) -> None:
    """Paint the cameras' scenes once, as any data set of more than a few people does."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "warm", preset=name, ids=24, workers=1)


def contact_sheet(preset: Preset, first_pid: int, rows: int, zoom: float) -> Image.Image:
    """Lay out people in rows, their photographs by spectrum and camera in columns."""
    gap = 6
    strips = []
    for pid in range(first_pid, first_pid + rows):
        groups = [
            np.hstack([shoot(pid, CODES[title], index, camid, preset) for index, camid in enumerate(camids)])
            for title, camids in COLUMNS.items()
        ]
        bar = np.full((HEIGHT, gap, 3), 255, dtype=np.uint8)
        strips.append(np.hstack([part for group in groups for part in (bar, group)][1:]))
    header = Image.new("RGB", (strips[0].shape[1], 14), "white")
    x = 0
    for title, camids in COLUMNS.items():
        ImageDraw.Draw(header).text((x + 2, 1), f"{title}: cameras {', '.join(map(str, sorted(set(camids))))}", "black")
        x += len(camids) * WIDTH + gap
    sheet = Image.fromarray(np.vstack([np.asarray(header), *strips]))
    return sheet.resize((round(sheet.width * zoom), round(sheet.height * zoom)), Image.Resampling.BICUBIC)


def shoot(pid: int, spectrum: str, index: int, camid: int, preset: Preset) -> np.ndarray:
    """Take one photograph; the first two of each spectrum are of the same instants."""
    instant = index if index < preset.shared else -1
    return take(Shot(pid, spectrum, index, camid, instant), preset.seed, preset.difficulty).pixels


def save_small(sheet: Image.Image, file: Path) -> None:
    """Save as a dithered PNG of 256 colours: a third of the size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    palette = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)


def main(
    preset: Literal["demo", "synthetic-v1", "synthetic-wide", "synthetic-hard"] = "synthetic-v1",
    ids: Annotated[int, typer.Option(help="identities to time")] = 60,
    sheet: Annotated[Path | None, typer.Option(help="draw the contact sheet into this PNG instead")] = None,
    first_pid: int = 551,
    rows: int = 7,
    zoom: float = 1.0,
) -> None:
    """Parse, measure or draw, print."""
    if sheet:
        save_small(contact_sheet(PRESETS[preset], first_pid, rows, zoom), sheet)
        Console().print(f"wrote {sheet} ({sheet.stat().st_size / 1e3:.0f} kB)")
    else:
        print_header()
        Console().print(measure(preset, ids))


if __name__ == "__main__":
    typer.run(main)
