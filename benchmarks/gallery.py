"""Search in a gallery beside plain FAISS and the memory's own speed, in one run.

Every engine here is exact, so there is no recall to measure. "Whole search" is `Gallery.search`: the engine, float32
scores of the head, grouping by track, the records of the answer, and the audit entry on the disk. The vectors are
random directions around one centre a track; the 1 % filter asks for two of twenty cameras, one modality and a fifth
of the time. "Calibrated" searches each modality by itself, as a calibrated gallery must.
"""

import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import typer

from measure import print_header
from vireid.gallery import Filter, Gallery, NewItem, Query, Use
from vireid.gallery.calibration import Calibration, PairCalibration

START = datetime(2026, 5, 1, tzinfo=UTC)
USE = Use(purpose="benchmark", case="none")
TRACK, CAMERAS, DAYS, BATCH = 10, 20, 30, 64


def make_vectors(count, dim):
    """Return (count, dim) unit vectors, ten near one centre."""
    generator = np.random.default_rng(0)
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, 10_000):
        part = vectors[start : start + 10_000]
        part[:] = np.repeat(generator.standard_normal((-(-len(part) // TRACK), dim), np.float32), TRACK, 0)[: len(part)]
        part += 0.5 * generator.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def make_items(rows, count):
    """Return items in order of time, ten a track, cameras and modalities in turn."""
    for row in rows:
        track = row // TRACK
        yield NewItem(
            id=str(row),
            camera=f"camera {track % CAMERAS}",
            modality=track // CAMERAS % 2,
            time=START + timedelta(days=DAYS * row / count),
            track=str(track),
        )


def fill(gallery, vectors):
    """Store all vectors; return rows a second."""
    began = time.perf_counter()
    for start in range(0, len(vectors), 5000):
        rows = range(start, min(start + 5000, len(vectors)))
        gallery.add(list(make_items(rows, len(vectors))), vectors[rows.start : rows.stop])
    return len(vectors) / (time.perf_counter() - began)


def times(call, arguments):
    """Return the milliseconds of one call for each argument, the first two left out."""
    found = []
    for argument in arguments:
        began = time.perf_counter()
        call(argument)
        found.append(1e3 * (time.perf_counter() - began))
    return np.array(found[2:])


def show(name, milliseconds, each=1, plain=None):
    """Print a row: median, 95th percentile, queries a second, and its share of the plain way's."""
    median, late = np.percentile(milliseconds, [50, 95])
    rate = 1e3 * each / median
    share = "" if plain is None else f"{rate / plain:10.2f}x"
    print(f"{name:52s}{median:9.1f}{late:9.1f}{rate:10.1f}{share}", flush=True)
    return rate


def memory_limit(vectors):
    """Time how long the processor takes to read all vectors once, in float32 and in half of that."""
    flat = vectors.reshape(-1).view(np.int64)
    read = times(lambda part: np.bitwise_or.reduce(part), [flat] * 5)
    show("memory read once, float32", read)
    show("memory read once, float16", times(lambda part: np.bitwise_or.reduce(part), [flat[: len(flat) // 2]] * 5))


def plain_faiss(name, index, vectors, queries):
    """Time an index without records or filters; return its rates alone and in batches."""
    index.add(vectors)
    single = show(f"{name}, one query", times(lambda q: index.search(q[None], 20), queries))
    batch = show(f"{name}, batch of {BATCH}", times(lambda q: index.search(q, 20), [queries[:BATCH]] * 4), BATCH)
    return single, batch


def gallery_rows(gallery, queries, plain):
    """Time the engine by itself and the whole search, with and without a filter, and in batches."""
    few = Filter(
        cameras=("camera 3", "camera 11"), modality="visible", start=START, end=START + timedelta(days=DAYS / 5)
    )
    asked = [Query.from_vector(q, "infrared") for q in queries]
    print(f"{gallery.count(few) / gallery.count():.1%} of the items meet the filter")
    show("gallery engine, exact top 20", times(lambda q: gallery.nearest(q[None], 20), queries), 1, plain[0])
    show("gallery engine, exact top 20, filter", times(lambda q: gallery.nearest(q[None], 20, few), queries))
    show("whole search, 20 tracks", times(partial(gallery.search, use=USE), asked), 1, plain[0])
    show("whole search, 20 tracks, filter", times(partial(gallery.search, use=USE, where=few), asked))
    many = times(partial(gallery.search_many, use=USE), [asked[:BATCH]] * 4)
    show(f"whole search, batch of {BATCH}", many, BATCH, plain[1])
    gallery.store_calibration(calibration(gallery))
    show("whole search, 20 tracks, calibrated", times(partial(gallery.search, use=USE), asked), 1, plain[0])


def calibration(gallery):
    """Return a calibration whose thresholds hide nothing: a search then asks for each modality by itself."""
    curves = {"similarity": (-1, 1), "roc_fpr": (1, 0), "roc_tpr": (1, 0)}
    sample = {"tpr": 1, "fpr": 1, "eer": 0.1, "num_genuine": 1000, "num_impostor": 1000}
    pair = PairCalibration(threshold=-1, slope=1, intercept=0, **curves, **sample)
    pairs = dict.fromkeys(("infrared-visible", "infrared-infrared"), pair)
    bundle = gallery.settings.bundle_sha256
    return Calibration(target_fpr=0.1, bundle_sha256=bundle, made=datetime.now(UTC), pairs=pairs)


def main(
    items: Annotated[list[int] | None, typer.Option(help="sizes of the gallery; default: 100000, 1000000")] = None,
    dim: int = 512,
    queries: int = 100,
    disk: Annotated[
        Path | None, typer.Option("--folder", help="where the gallery is made, on the disk to be measured")
    ] = None,
):
    """Print the table."""
    print_header()
    for count in items or [100_000, 1_000_000]:
        print(f"\n{count} x {dim}, exact, {faiss.omp_get_max_threads()} threads")
        print(f"{'':52s}{'p50 ms':>9s}{'p95 ms':>9s}{'a second':>10s}{'of SQfp16':>11s}")
        vectors = make_vectors(count, dim)
        asked = make_vectors(max(queries, BATCH), dim)[::-1] + 0.5 * vectors[:1]
        asked = np.ascontiguousarray(asked / np.linalg.norm(asked, axis=1, keepdims=True), np.float32)
        memory_limit(vectors)
        plain_faiss("FAISS flat float32", faiss.IndexFlatIP(dim), vectors, asked)
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)
        plain = plain_faiss("FAISS SQ float16", index, vectors, asked)
        del index
        with tempfile.TemporaryDirectory(dir=disk) as folder:
            with Gallery.create(Path(folder) / "gallery", dim=dim) as gallery:
                print(
                    f"stored {fill(gallery, vectors):.0f} rows a second, {gallery.stats().bytes_on_disk / 1e9:.2f} GB"
                )
            del vectors
            with Gallery.open(Path(folder) / "gallery") as gallery:
                began = time.perf_counter()
                gallery.refresh()
                print(f"vectors read at start in {time.perf_counter() - began:.1f} s")
                gallery_rows(gallery, asked, plain)


if __name__ == "__main__":
    typer.run(main)
