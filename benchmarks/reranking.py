"""k-reciprocal re-ranking: seconds, peak memory and the ratio to the dense NumPy way (the tests' oracle)."""

import argparse
import sys
from pathlib import Path

import numpy as np

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


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=2060)
    parser.add_argument("--gallery", type=int, default=4120)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--images", type=int, default=30, help="images of a person")
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 3.0], help="against centres of deviation 1")
    parser.add_argument("--no-plain", action="store_true", help="for sizes that the dense way cannot hold")
    options = parser.parse_args()
    print_header()
    print(f"{options.queries} + {options.gallery} features, {options.width}-d")
    for noise in options.noise:
        query, gallery = clusters(options.queries, options.gallery, options.width, options.images, noise)
        repeats = 1 if options.no_plain else 3
        seconds, memory, result = measure(lambda q=query, g=gallery: k_reciprocal_rerank(q, g), repeats)
        if options.no_plain:
            print_row(f"k_reciprocal_rerank, noise {noise}", seconds, memory)
            continue
        plain, plain_memory, expected = measure(lambda q=query, g=gallery: plain_rerank(q, g), 1)
        print_row(f"dense NumPy, noise {noise}", plain, plain_memory, plain)
        print_row(f"k_reciprocal_rerank, noise {noise}", seconds, memory, plain)
        print(f"largest difference: {np.abs(result - expected).max():.1e}")


if __name__ == "__main__":
    main()
