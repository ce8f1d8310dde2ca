"""Ranking: seconds, peak memory and the ratio to the plain implementation (the tests' oracle).

The oracle, and the NumPy loop that argsorts one query after another, are timed on some of the queries
and scaled; random features stand around one centre a person.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from measure import measure, print_header, print_row
from vireid.evaluation import PRESETS, rank_features, rank_metrics
from vireid.evaluation.trials import evaluate_distances
from vireid.records import Records

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ranking_oracle import plain_rank_metrics
from trees import sysu_test_shape


def market_like(queries, gallery, width, people=750, cameras=6):
    """Return query and gallery features around one centre a person, and their labels."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((people, width), np.float32)
    pids = [generator.integers(0, people, n) for n in (queries, gallery)]
    camids = [generator.integers(1, cameras + 1, n) for n in (queries, gallery)]
    features = [centres[p] + 4 * generator.standard_normal((len(p), width), np.float32) for p in pids]
    return [f / np.linalg.norm(f, axis=1, keepdims=True) for f in features], (*pids, *camids)


def numpy_loop(distances, qp, gp, qc, gc):
    """Return mAP by an argsort and a mask for each query, as evaluators without compiled code do."""
    scores = []
    for row, pid, camid in zip(distances, qp, qc, strict=True):
        order = np.argsort(row, kind="stable")
        order = order[(gp[order] != pid) | (gc[order] != camid)]
        position = np.flatnonzero(gp[order] == pid) + 1
        if len(position):
            scores.append(np.mean(np.arange(1, len(position) + 1) / position))
    return np.mean(scores)


def sysu_trials():
    """Return a table of SYSU-MM01's true test shape and random distances of all its pairs, by rows."""
    rows = [(f"cam{c}/{p:04d}/{k:04d}.jpg", p, c) for (c, p), n in sysu_test_shape().items() for k in range(1, n + 1)]
    path, pid, camid = zip(*rows, strict=True)
    records = Records.build("sysu", path, pid, camid, [int(c in (3, 6)) for c in camid])
    table = np.random.default_rng(0).random((3803, 301), np.float32)
    return records, lambda query, gallery: table[:, : len(gallery)].__getitem__


def main(
    queries: int = 3368,
    gallery: int = 15_913,
    width: int = 512,
    plain_queries: Annotated[int, typer.Option(help="queries that the plain ways are timed on")] = 40,
    features_only: Annotated[
        bool, typer.Option("--features-only", help="for galleries whose matrix does not fit")
    ] = False,
):
    """Print the table."""
    print_header()
    print(f"{queries} queries, {gallery} gallery images, {width}-d, two CMC units")
    (query, stored), labels = market_like(queries, gallery, width)
    rules = {"hide": "same_id_and_camera"}
    some = slice(0, min(plain_queries, queries))
    scale = queries / some.stop
    part, judged = -(query[some] @ stored.T), (labels[0][some], labels[1], labels[2][some], labels[3])
    plain, memory, oracle = measure(lambda: plain_rank_metrics(part, *judged, **rules), 1)
    plain *= scale
    print_row(f"plain oracle (from {some.stop} queries)", plain, memory, plain)
    seconds, memory, _ = measure(lambda: numpy_loop(part, *judged))
    print_row(f"NumPy loop over queries (from {some.stop} queries)", scale * seconds, memory, plain)
    result = rank_metrics(part, *judged, **rules)
    difference = np.abs(np.array([*result.cmc, result.mean_ap, result.mean_inp]) - np.array([*oracle[0], *oracle[1:3]]))
    if not features_only:
        distances = -(query @ stored.T)
        for unit in ("image", "identity"):
            seconds, memory, _ = measure(lambda unit=unit: rank_metrics(distances, *labels, cmc_unit=unit, **rules))
            print_row(f"rank_metrics, float32 matrix, {unit} CMC", seconds, memory, plain)
        tied = np.round(distances, 3)
        seconds, memory, _ = measure(lambda: rank_metrics(tied, *labels, **rules), 1)
        print_row("rank_metrics, every query tied (rounded to 0.001)", seconds, memory, plain)
    for metric in ("cosine", "euclidean"):
        call = partial(rank_features, query, stored, *labels, metric=metric, **rules)
        seconds, memory, _ = measure(call)
        print_row(f"rank_features, {metric}", seconds, memory, plain)
    print(f"largest difference from the oracle, {some.stop} queries: {difference.max():.1e}")
    records, distances = sysu_trials()
    seconds, memory, _ = measure(lambda: evaluate_distances(PRESETS["sysu-all"], records, distances))
    print_row("SYSU-MM01 all-search, 10 trials, draws and ranking", seconds, memory)


if __name__ == "__main__":
    typer.run(main)
