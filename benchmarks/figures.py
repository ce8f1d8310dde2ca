"""Draw the pictures of docs/methods from synthetic people.

    vireid synth --preset demo --ids 40 --out data/figures
    python benchmarks/figures.py --root data/figures

The features are those of ImageNet weights: nothing is trained here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from torch import Generator, Tensor

from vireid.data import synthetic
from vireid.data.augment import Augment, ChannelExchange, ChannelRandomErasing, ViewAugment
from vireid.data.datamodule import ImageBatches, image_source
from vireid.losses import UnidirectionalLoss
from vireid.losses.shortest_path import RANGE
from vireid.nn import BackboneOptions, build_backbone
from vireid.plots import PALETTE
from vireid.records import Batch, Modality, Records

OUT = Path(__file__).parent.parent / "docs" / "images"
SIZE = (128, 64)
STRIPES = 8


def main(root: Annotated[Path, typer.Option(help="folder made by vireid synth")]) -> None:
    """Write docs/images/caj_views.png, cmlspge_path.png and maum_queue.png."""
    records = synthetic.load(root)
    visible, infrared = (first_images(records, modality, 4) for modality in Modality)
    caj_views(visible, infrared).savefig(OUT / "caj_views.png", dpi=100, bbox_inches="tight")
    cmlspge_path(visible, infrared).savefig(OUT / "cmlspge_path.png", dpi=100, bbox_inches="tight")
    maum_queue().savefig(OUT / "maum_queue.png", dpi=100, bbox_inches="tight")


def first_images(records: Records, modality: Modality, count: int) -> Batch:
    """Return one image of each of the first `count` identities."""
    own = records.mask(modality=modality)
    rows = [np.flatnonzero((records.pid == pid) & own)[0] for pid in np.unique(records.pid)[:count]]
    chosen = records.take(np.array(rows))
    return ImageBatches(chosen, image_source(chosen, SIZE, cache=False), chosen.pid).__getitems__(list(range(count)))


def caj_views(visible: Batch, infrared: Batch) -> Figure:
    """Draw a channel alone, grey, a view as drawn in training, and the infrared image of the same person."""
    raw = visible.images.float() / 255
    drawn = ViewAugment(erasing=ChannelRandomErasing(p=1), exchange=ChannelExchange(mode="rgb", space="raw"))
    columns = {"visible": raw}
    columns |= {name: raw[:, i : i + 1].expand(-1, 3, -1, -1) for i, name in enumerate(("R", "G", "B"))}
    columns["grey"] = augmented(visible, Augment(pad=0, flip=0, visible=ViewAugment(gray=1)))
    columns["drawn in\ntraining"] = augmented(visible, Augment(pad=6, visible=drawn))
    columns["infrared"] = infrared.images.float() / 255
    figure = Figure(figsize=(7, 8.2))
    axes = figure.subplots(len(raw), len(columns))
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=10)
        for row, image in enumerate(images):
            show(axes[row, column], image)
    figure.subplots_adjust(wspace=0.05, hspace=0.03)
    return figure


def augmented(batch: Batch, augment: Augment) -> Tensor:
    """Return the images as the augmentation leaves them, in [0, 1]."""
    return augment(batch, (0.0,) * 3, (1.0,) * 3, Generator().manual_seed(1)).images


def cmlspge_path(visible: Batch, infrared: Batch) -> Figure:
    """Draw the table of stripe distances and the cheapest way through it: same person shifted, and two people."""
    lowered = torch.cat([infrared.images[:, :, :20], infrared.images[:, :, :-20]], dim=2)
    pairs = [
        ("same person", visible.images[0], infrared.images[0]),
        ("same person, 20 pixels lower", visible.images[0], lowered[0]),
        ("two people", visible.images[0], infrared.images[1]),
    ]
    figure = Figure(figsize=(10, 3.2))
    axes = figure.subplots(1, 9, width_ratios=[1, 2.4, 1] * 3)
    for slot, (title, first, second) in enumerate(pairs):
        table = stripe_distances(first, second)
        cells, total = cheapest_way(table)
        show(axes[3 * slot], first / 255)
        show(axes[3 * slot + 2], second / 255)
        middle = axes[3 * slot + 1]
        middle.imshow(table, cmap="viridis", aspect="auto")
        middle.plot([j for _, j in cells], [i for i, _ in cells], "o-", color="#e0693a", markersize=3)
        middle.set_title(f"{title}\npath {total:.2f}", fontsize=9)
        middle.set(xticks=[], yticks=[])
    figure.tight_layout()
    return figure


def stripe_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the (h, h) table of two images' stripes, features of ImageNet weights."""
    backbone = build_backbone(BackboneOptions()).eval()
    with torch.no_grad():
        maps = backbone((torch.stack([first, second]).float() / 255 - 0.5) / 0.5)
    stripes = maps.unflatten(2, (STRIPES, -1)).mean((3, 4)).transpose(1, 2)
    normal = RANGE.normalize(stripes)
    return RANGE.between(normal[0], normal[1])


def cheapest_way(table: Tensor) -> tuple[list[tuple[int, int]], float]:
    """Return the cells from the top left to the bottom right, moving right or down, and their sum."""
    best = table.double().numpy().copy()
    for i, j in np.ndindex(best.shape):
        before = [best[i - 1, j]] * (i > 0) + [best[i, j - 1]] * (j > 0)
        best[i, j] += min(before, default=0.0)
    cells = [(len(best) - 1, len(best) - 1)]
    while cells[-1] != (0, 0):
        i, j = cells[-1]
        options = [(i - 1, j)] * (i > 0) + [(i, j - 1)] * (j > 0)
        cells.append(min(options, key=lambda cell: best[cell]))
    return cells[::-1], float(best[-1, -1])


def maum_queue() -> Figure:
    """Draw a queue of infrared proxies that drift, the pull on a visible feature, and the loss over its direction."""
    times = 32
    own, other = (on_circle(torch.linspace(*ends, times)) for ends in ((70, 20), (160, 145)))
    queue = torch.stack([own, other], dim=1)
    figure = Figure(figsize=(10, 4.2))
    circle, curve = figure.subplots(1, 2, width_ratios=(1, 1.3))
    circle.plot(*on_circle(torch.linspace(-15, 195, 200)).T, color=PALETTE[5], linewidth=0.6)
    for rows, name, color in ((own, "of its identity", PALETTE[1]), (other, "of another", PALETTE[5])):
        circle.scatter(*rows.T, c=color, marker="^", s=34, alpha=np.linspace(0.15, 1, times), label=f"proxies {name}")
    x = on_circle(torch.tensor([60.0])).requires_grad_()
    (pull,) = torch.autograd.grad(UnidirectionalLoss()(x, torch.zeros(1, dtype=torch.long), queue), x)
    place, step = x.detach()[0], -0.45 * pull[0] / pull.norm()
    circle.plot(*place, "o", color=PALETTE[0], markersize=9, label="visible feature and its pull")
    circle.annotate("", (place + step).tolist(), place.tolist(), arrowprops={"arrowstyle": "->", "color": PALETTE[0]})
    circle.set(aspect="equal", xticks=[], yticks=[], ylim=(-0.6, 1.25))
    circle.legend(fontsize=8, loc="lower center", frameon=False)
    degrees = torch.linspace(-15, 195, 200)
    ways = {
        "newest proxies only, S = 1": (UnidirectionalLoss(), queue[-1:]),
        "queue, S = 32": (UnidirectionalLoss(), queue),
        "queue, counts normalised": (UnidirectionalLoss(count_normalized=True), queue),
    }
    for name, (loss, rows) in ways.items():
        values = [loss(row[None], torch.zeros(1, dtype=torch.long), rows) for row in on_circle(degrees)]
        curve.plot(degrees, torch.stack(values), label=name)
    curve.axvspan(20, 70, color=PALETTE[1], alpha=0.12)
    curve.set(xlabel="direction of the visible feature, degrees (shaded: proxies of its identity)", ylabel="loss")
    curve.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return figure


def on_circle(degrees: Tensor) -> Tensor:
    """Return unit vectors of some directions, (N,) -> (N, 2)."""
    return torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)


def show(axes: object, image: Tensor) -> None:
    """Draw a (3, H, W) image in [0, 1] without a frame."""
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())  # type: ignore[attr-defined]
    axes.axis("off")  # type: ignore[attr-defined]


if __name__ == "__main__":
    typer.run(main)
