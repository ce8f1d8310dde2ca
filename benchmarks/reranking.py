"""k-reciprocal re-ranking: seconds, peak memory and the ratio to the dense NumPy way (the tests' oracle)."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from measure import measure, print_header, print_row
from vireid.evaluation import k_reciprocal_rerank

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rerank_oracle import plain_rerank


def clusters(queries, gallery, width, images, noise):
    """Return unit features around one centre for every `images` items."""
    generator = np.random.default_rng(0)
    people = max(1, (queries + gallery) // images)
    centres = generator.standard_normal((people, width), np.float32)
    features = generator.standard_normal((queries + gallery, width), np.float32)
    features *= noise
    features += centres[np.arange(queries + gallery) % people]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features[:queries], features[queries:]


def main(
    queries: int = 2060,
    gallery: int = 4120,
    width: int = 512,
    images: Annotated[int, typer.Option(help="images of a person")] = 30,
    noises: Annotated[
        list[float] | None, typer.Option("--noise", help="against centres of deviation 1; default: 1, 3")
    ] = None,
    no_plain: Annotated[bool, typer.Option("--no-plain", help="for sizes that the dense way cannot hold")] = False,
):
    """Print the table."""
    print_header()
    print(f"{queries} + {gallery} features, {width}-d")
    for noise in noises or [1.0, 3.0]:
        query, stored = clusters(queries, gallery, width, images, noise)
        repeats = 1 if no_plain else 3
        seconds, memory, result = measure(lambda q=query, g=stored: k_reciprocal_rerank(q, g), repeats)
        if no_plain:
            print_row(f"k_reciprocal_rerank, noise {noise}", seconds, memory)
            continue
        plain, plain_memory, expected = measure(lambda q=query, g=stored: plain_rerank(q, g), 1)
        print_row(f"dense NumPy, noise {noise}", plain, plain_memory, plain)
        print_row(f"k_reciprocal_rerank, noise {noise}", seconds, memory, plain)
        print(f"largest difference: {np.abs(result - expected).max():.1e}")


if __name__ == "__main__":
    typer.run(main)
