"""Local shortest path: seconds, peak memory and the ratio to the plain way, the table filled cell by cell."""

from typing import Annotated

import torch
import typer

from measure import measure, print_header, print_row
from vireid.losses import StripeMetric, path_distances, shortest_path, streamed_path_distances

METRIC = StripeMetric()


def cell_loop(table):
    """Follow the printed recursion over an (h, w, …) table, h w steps."""
    h, w = table.shape[:2]
    best = {}
    for i in range(h):
        for j in range(w):
            before = [best[cell] for cell in ((i - 1, j), (i, j - 1)) if cell in best]
            best[i, j] = table[i, j] + (torch.minimum(*before) if len(before) == 2 else sum(before))
    return best[h - 1, w - 1]


def plain(x, y):
    """Return all distances from one table and the cell loop."""
    a, b = METRIC.normalize(x), METRIC.normalize(y)
    rows = [[METRIC.between(a[:, i], b[:, j]) for j in range(y.shape[1])] for i in range(x.shape[1])]
    return cell_loop(torch.stack([torch.stack(row) for row in rows]))


def search(queries, gallery, h, dim):
    """All distances of a search, no gradients."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, h, dim, generator=generator).relu() for n in (queries, gallery))
    streamed_path_distances(x[:8], y[:8])
    with torch.no_grad():
        streamed, streamed_memory, result = measure(lambda: streamed_path_distances(x, y), 2)
        waved, waved_memory, _ = measure(lambda: path_distances(x, y), 2)
        seconds, memory, expected = measure(lambda: plain(x, y), 2)
    print_row(f"search, cell loop over the table, {queries} x {gallery}, h={h}", seconds, memory, seconds)
    print_row("search, table and anti-diagonals", waved, waved_memory, seconds)
    print_row("search, streaming", streamed, streamed_memory, seconds)
    difference = (result - expected).abs().max()
    print(f"streaming holds {4 * (h + 3)} bytes a pair of a block; largest difference {difference:.1e}")


def train(images, h):
    """Forward and backward of the path alone, on the table of a batch with itself."""
    table = torch.rand(h, h, images, images, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ways = {"cell loop": cell_loop, "anti-diagonals": shortest_path}
    times = {name: measure(lambda w=way: w(table).sum().backward(), 9)[:2] for name, way in ways.items()}
    for name, (seconds, memory) in times.items():
        print_row(f"training, {name}, {images} x {images}, h={h}", seconds, memory, times["cell loop"][0])


def main(
    queries: int = 1024,
    gallery: int = 301,
    stripes: Annotated[
        list[int] | None, typer.Option(help="of training; the first of search; default: 6, 8, 18")
    ] = None,
    dim: int = 256,
    batch: int = 64,
):
    """Print the table."""
    print_header()
    stripes = stripes or [6, 8, 18]
    search(queries, gallery, stripes[0], dim)
    for h in stripes:
        train(batch, h)


if __name__ == "__main__":
    typer.run(main)
