"""Draw where a trained SPOT looks: heat-maps, attention received by each place, part masks.

    vireid train spot --root data/synthetic-v1
    python benchmarks/spot_attention.py runs/synthetic-spot-0/last.safetensors --root data/synthetic-v1

Rows are a visible and an infrared image of each of the first test identities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from vireid.data import open_dataset
from vireid.data.datamodule import ImageBatches, image_source
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.methods.spot import SPOT
from vireid.plots import attention_figure
from vireid.records import Batch, Modality, Records


def main(
    bundle: Path,
    root: Annotated[Path, typer.Option(help="folder of the data set")],
    data: Annotated[str, typer.Option(help="its name")] = "synthetic",
    people: Annotated[int, typer.Option(help="identities to draw")] = 2,
    out: Path = Path("docs/images/spot_attention.png"),
) -> None:
    """Write the figure."""
    embedder = Embedder.load(bundle)
    records = pairs(open_dataset(data, root).where(split="test"), people)
    source = image_source(records, embedder.image_size, cache=False)
    batch = ImageBatches(records, source, records.pid).__getitems__(list(range(len(records))))
    figure = attention_figure(batch.images.permute(0, 2, 3, 1).numpy(), looks(embedder, batch))
    figure.savefig(out, dpi=120)
    Console().print(f"{out}: {', '.join(records.path)}")


def pairs(records: Records, people: int) -> Records:
    """Return one visible and one infrared image of each of the first identities."""
    rows = [
        np.flatnonzero((records.pid == pid) & (records.modality == modality))[0]
        for pid in np.unique(records.pid)[:people]
        for modality in Modality
    ]
    return records.take(np.array(rows))


@torch.inference_mode()
def looks(embedder: Embedder, batch: Batch) -> dict[str, np.ndarray]:
    """Return the maps (N, h, w) of a uint8 batch by name."""
    method = embedder.method
    if not isinstance(method, SPOT) or method.asr is None:
        raise InputError("name a bundle of SPOT with its structure branch")
    images = batch.images.float() / 255
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (method.mean, method.std))
    maps = method.encode((images - mean) / std, batch.modality, batch.keypoints)
    received = method.asr.attention(maps.appearance, maps.structure).mean(1)
    found = {"key-points": maps.heatmaps.amax(1), "attention": received.view(len(batch), *maps.appearance.shape[2:])}
    if maps.masks is not None:
        found |= {f"part {i + 1}": mask for i, mask in enumerate(maps.masks.unbind(1))}
    return {name: value.numpy() for name, value in found.items()}


if __name__ == "__main__":
    typer.run(main)
