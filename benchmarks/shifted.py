"""Search among pictures cut off too high: does CM-LSP-GE's path keep what stripes at fixed heights lose?

    python benchmarks/shifted.py runs/synthetic-cmlspge-0/last.safetensors --root data/synthetic-v1

Infrared queries stay as they are; every colour picture is moved down by a share of its height, its first row repeated
above. Prints rank-1 / mAP, percent, infrared to visible, of one bundle's test distances.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from measure import print_header
from vireid.data import open_dataset
from vireid.data.datamodule import ImageBatches, image_source, loader
from vireid.embedder import Embedder
from vireid.evaluation.evaluate import FeatureTable, find_protocol
from vireid.records import Modality

DISTANCES = {
    "global": {"test_distance": "global"},
    "path": {"test_distance": "lsp"},
    "path, debiased": {"test_distance": "lsp", "debias": True},
    "joint": {"test_distance": "joint"},
}
SHARES = (0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4)


def main(bundle: Path, root: Annotated[Path, typer.Option(help="folder of the data set")]) -> None:
    """Print a line for each distance, a column for each shift."""
    embedders = {name: Embedder.load(bundle, options=options) for name, options in DISTANCES.items()}
    embedder = embedders["global"]
    records = open_dataset("synthetic", root).where(split="test")
    images = ImageBatches(records, image_source(records, embedder.image_size, cache=False), records.pid)
    batches = list(loader(images, [rows.tolist() for rows in torch.arange(len(records)).split(64)]))
    protocol, height = find_protocol("cross-ir2vis"), embedder.image_size[0]
    distances = {name: variant.method.distance for name, variant in embedders.items()}
    distances["the path's cells at fixed heights"] = partial(fixed, metric=embedder.method.metric)
    found = {name: [] for name in distances}
    for share in SHARES:
        parts = [embedder.features(shifted(batch, round(share * height))) for batch in batches]
        features = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        for name, distance in distances.items():
            mean = FeatureTable(records, features, distance).evaluate(protocol).summary.mean()
            found[name].append(f"{100 * mean['rank1']:.1f} / {100 * mean['mAP']:.1f}")
    print_header()
    print(f"{'moved down by':36s}" + "".join(f"{share:>15.1%}" for share in SHARES))
    for name, figures in found.items():
        print(f"{name:36s}" + "".join(f"{figure:>15s}" for figure in figures))


def fixed(query, gallery, metric):
    """Sum the cells on the table's diagonal: every stripe against the one at its height."""
    q, g = (metric.normalize(side["stripes"]).transpose(0, 1).contiguous() for side in (query, gallery))
    return metric.between(q, g).sum(0)


def shifted(batch, rows):
    """Move a batch's visible images down by `rows`, the first row repeated above."""
    down = torch.cat([batch.images[:, :, :1].expand(-1, -1, rows, -1), batch.images], 2)[:, :, : batch.images.shape[2]]
    visible = (batch.modality == Modality.VISIBLE).view(-1, 1, 1, 1)
    return replace(batch, images=torch.where(visible, down, batch.images))


if __name__ == "__main__":
    typer.run(main)
