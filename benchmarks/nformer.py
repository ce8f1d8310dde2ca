"""NFormer's forward: seconds and peak memory against the number of features, sparse and as published (N x N).

python benchmarks/nformer.py                                     # up to 20,000; draws docs/images/nformer_*.png
python benchmarks/nformer.py --sizes 200000 --repeats 1
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from measure import measure, print_header, print_row
from vireid.methods.nformer import AttentionOptions, NeighborTransformer
from vireid.nn.neighbor_graph import landmark_factors
from vireid.plots import COLORS, INK, MARKERS, PALETTE
from vireid.records import Modality

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZES = [1024, 2048, 4096, 10_000, 20_000]


@torch.inference_mode()
def dense(module: NeighborTransformer, x: Tensor, landmarks: Tensor) -> Tensor:
    """The published form: an N x N mask for all layers, N x N affinities and softmax in every head."""
    unit = normalize(x, dim=1)
    listed = torch.zeros(len(x), len(x)).scatter_(1, (unit @ unit.T).topk(module.neighbors, dim=1).indices, 1)
    mask = (listed * listed.T).bool()
    for block, chosen in zip(module.layers(), landmarks, strict=True):
        q, k, v = block.project(x[None])
        left, right = landmark_factors(q, k, chosen)
        affinity = (left @ right.mT * module.scale).masked_fill(~mask, -1e9)
        x = block(x[None], (affinity.softmax(3) @ v).transpose(1, 2).flatten(2))[0]
    return x


def people(count: int, images: int, offset: float, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, modality and pid of gaussian people whose modalities are `offset` apart."""
    generator = torch.Generator().manual_seed(3)
    centre, shift = torch.randn(count, 1, dim, generator=generator), offset * torch.randn(2, dim, generator=generator)
    parts = [centre + move + 0.6 * torch.randn(count, images, dim, generator=generator) for move in shift]
    modality = torch.arange(2).repeat_interleave(count * images)
    return torch.cat(parts).flatten(0, 1), modality, torch.arange(count).repeat_interleave(images).repeat(2)


def draw_cost(rows: dict[str, list[tuple[int, float, float]]]) -> Figure:
    """Draw seconds and megabytes against N, both axes logarithmic."""
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    labels = ("seconds a forward", "peak memory, MB")
    for column, (axes, label) in enumerate(zip(figure.subplots(1, 2), labels, strict=True), start=1):
        for (name, points), color in zip(rows.items(), PALETTE, strict=False):
            axes.plot([p[0] for p in points], [p[column] for p in points], "o-", color=color, label=name)
        axes.set(xscale="log", yscale="log", xlabel="features N", ylabel=label)
        axes.grid(color=PALETTE[5], alpha=0.22)
        axes.legend(frameon=False, labelcolor=INK)
    return figure


def draw_graph() -> Figure:
    """Draw the reciprocal neighbours of gaussian people under the three ways to list neighbours."""
    x, modality, pid = people(count=7, images=5, offset=1.0)
    centred = torch.cat([x[modality == m] - x[modality == m].mean(0) for m in (0, 1)])
    place = (centred @ torch.linalg.svd(centred, full_matrices=False)[2][:2].T).numpy()
    halves = {"neighbor_mode": "per_modality", "same_neighbors": 4, "cross_neighbors": 4}
    centring = {**halves, "graph_centering": True}
    ways = {"joint, k = 8": {}, "per modality, 4 + 4": halves, "per modality, centred": centring}
    figure = Figure(figsize=(13.2, 4.4), layout="constrained")
    for axes, (title, options) in zip(figure.subplots(1, 3), ways.items(), strict=True):
        module = NeighborTransformer(16, 1, 2, 5, 8, AttentionOptions(**options))
        module.directions(x, modality)
        index, keep = module.eval().graph(x[None], modality[None]).flat(1)
        pairs = [(i, j) for i in range(len(x)) for j in index[i][keep[i]].tolist() if i < j]
        across = [(i, j) for i, j in pairs if modality[i] != modality[j]]
        right = sum(bool(pid[i] == pid[j]) for i, j in across)
        text = f"{title}\n{len(pairs)} edges, {len(across)} across, {right} of those right"
        axes.set_title(text, fontsize=10, color=INK)
        _draw_edges(axes, place, pairs, pid)
        for kind in Modality:
            rows = (modality == kind).numpy()
            axes.scatter(*place[rows].T, marker=MARKERS[kind], color=COLORS[kind], s=34, zorder=3, label=str(kind))
        axes.set(xticks=[], yticks=[])
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def _draw_edges(axes: Axes, place: np.ndarray, pairs: list[tuple[int, int]], pid: Tensor) -> None:
    for i, j in pairs:
        color, alpha = (PALETTE[2], 0.7) if pid[i] == pid[j] else (PALETTE[5], 0.35)
        axes.plot(*place[[i, j]].T, color=color, alpha=alpha, linewidth=0.9)


def run(n: int, form: str, threads: int, repeats: int) -> tuple[float, float, np.ndarray]:
    """Return the best seconds of some forwards of n features, the megabytes of the first and its result."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module, x = NeighborTransformer().eval(), torch.randn(n, 256)
    landmarks = module.draw(torch.zeros(1, n, dtype=torch.int64))[0]
    with torch.inference_mode():
        module(x[:256])
        seconds, memory, result = measure(
            lambda: dense(module, x, landmarks) if form == "published" else module(x, landmarks), repeats
        )
    return seconds, memory, result.numpy()


def main(
    sizes: Annotated[list[int] | None, typer.Option(help="numbers of features; default: 1,024 to 20,000")] = None,
    largest_dense: Annotated[int, typer.Option(help="largest N of the published form")] = 4096,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    repeats: Annotated[int, typer.Option(help="forwards, the best of which counts")] = 2,
) -> None:
    """Print the table; with the default sizes also draw the figures. Every row is a process of its own."""
    print_header()
    print(f"256 dimensions, 4 layers, 2 heads, 5 landmarks, k = 20, {threads} threads, best of {repeats}")
    rows: dict[str, list[tuple[int, float, float]]] = {"sparse": [], "published": []}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for n in sizes or SIZES:
            forms = ["published", "sparse"] if n <= largest_dense else ["sparse"]
            results = {form: pool.submit(run, n, form, threads, repeats).result() for form in forms}
            for form, (seconds, memory, _) in results.items():
                plain = results["published"][0] if "published" in results else None
                print_row(f"N = {n:,}, {form}", seconds, memory, plain)
                rows[form].append((n, seconds, memory))
            if len(forms) == 2:
                print(f"largest difference: {np.abs(results['published'][2] - results['sparse'][2]).max():.1e}")
    if sizes is None:
        draw_cost(rows).savefig(IMAGES / "nformer_cost.png", dpi=110)
        draw_graph().savefig(IMAGES / "nformer_graph.png", dpi=110)


if __name__ == "__main__":
    typer.run(main)
