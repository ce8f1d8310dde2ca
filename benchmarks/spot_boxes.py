"""SPOT with true joints and with a standing template, against how loosely the boxes of people sit.

    vireid train spot --root data/synthetic-v1 --set seed=2 --out runs/joints
    vireid train spot --root data/synthetic-v1 --set seed=2 --set options.pose=template --out runs/template
    python benchmarks/spot_boxes.py runs/joints/last.safetensors runs/template/last.safetensors

Every line is a newly rendered set of people under new cameras, like synthetic-v1 but for the jitter of its boxes, which
was 0.03 in training. A bundle keeps its `pose`, so each model is tested with what it was trained with.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from measure import print_header
from vireid.data import open_dataset
from vireid.embedder import Embedder
from vireid.evaluation import PRESETS
from vireid.evaluation.evaluate import FeatureTable
from vireid.records import Records
from vireid.synth import Difficulty, write_dataset

JITTERS = (0.03, 0.06, 0.12)
"""Standard deviation of the boxes' edges, fractions of a person's height."""


def main(
    bundles: list[Path],
    people: Annotated[int, typer.Option(help="of each set")] = 300,
    seed: Annotated[int, typer.Option(help="of the people and cameras, another than the training's 0")] = 1,
) -> None:
    """Print rank-1 and mAP from infrared to visible, in percent."""
    print_header()
    table = Table("box jitter", *(f"{bundle.parent.name}, rank-1 / mAP" for bundle in bundles))
    for jitter in JITTERS:
        with tempfile.TemporaryDirectory() as folder:
            records = unseen(Path(folder) / "x", people, seed, Difficulty(box_jitter=jitter))
            table.add_row(f"{jitter:g}", *(score(bundle, records) for bundle in bundles))
    Console().print(table)


def unseen(out: Path, people: int, seed: int, difficulty: Difficulty) -> Records:
    """Render people, all of them to test with."""
    records = open_dataset("synthetic", write_dataset(out, ids=people, seed=seed, difficulty=difficulty))
    return replace(records, split=np.full(len(records), "test", dtype=object))


def score(bundle: Path, records: Records) -> str:
    """Return a bundle's figures."""
    found = FeatureTable.extract(Embedder.load(bundle), records, cache=False)
    metrics = found.evaluate(PRESETS["cross-ir2vis"]).summary.mean()
    return f"{100 * metrics['rank1']:.1f} / {100 * metrics['mAP']:.1f}"


if __name__ == "__main__":
    typer.run(main)
