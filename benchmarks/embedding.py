"""Images per second from JPEG files to vectors on disk, beside the bare network and rank-1, by engine and precision.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/embedding.py RUN/last.safetensors data/synthetic-v1 --json embedding.json

The bare network sees one resident batch again and again, in the faster of two ways: all cores share each batch, or each
core has its own. `vireid embed` is timed from the call to the finished file, the model's opening included; the crops
have just been written, so that they come from the page cache.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from loader import write_images
from measure import print_header
from vireid.data import open_dataset
from vireid.embed import embed_files, find_images
from vireid.embed_parts import Job
from vireid.embedder import Embedder
from vireid.environment import describe_environment
from vireid.errors import InputError
from vireid.evaluation.evaluate import FeatureTable, cosine_distance, find_protocol
from vireid.export import export_onnx
from vireid.onnx_embedder import OnnxEmbedder
from vireid.precision import PRECISIONS
from vireid.records import Batch, Modality

BATCH = 32
COMPILED = "torch.compile"


def resident(model):
    """Return a call that runs the network on a batch in memory."""
    pixels = np.random.default_rng(0).integers(0, 255, (BATCH, *model.image_size, 3), dtype=np.uint8)
    if isinstance(model, OnnxEmbedder):
        session = model._sessions[Modality.VISIBLE]
        return lambda: session.run(None, {"images": pixels})
    zeros = torch.zeros(BATCH, dtype=torch.int64)
    batch = Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), zeros, pid=zeros, camid=zeros, view=zeros)
    return lambda: model.features(batch)["global"].cpu()


def bare(model, seconds, threads=1):
    """Return images/s of resident batches: all cores on each or, with more threads, a core a thread."""
    call = resident(model)
    end = 0.0

    def work(_):
        done = 0
        while time.perf_counter() < end:
            call()
            done += BATCH
        return done

    keep_to_core = (lambda: torch.set_num_threads(1)) if threads > 1 else None
    with ThreadPoolExecutor(threads, initializer=keep_to_core) as pool:
        list(pool.map(lambda _: call(), range(2 * threads)))
        started = time.perf_counter()
        end = started + seconds
        done = sum(pool.map(work, range(threads)))
        return done / (time.perf_counter() - started)


def end_to_end(model, precision, crops):
    """Return images/s of `vireid embed`."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done, _ = embed_files(Job(model, Modality.VISIBLE, BATCH, precision), [crops], Path(folder) / "out.parquet")
        return done / (time.perf_counter() - started)


def rank1(model, records):
    """Return rank-1 of infrared queries against visible images."""
    features = np.zeros((len(records), model.embedding_dim), np.float32)
    for modality in Modality:
        rows = np.flatnonzero(records.modality == modality)
        features[rows] = model.embed([records.absolute(row) for row in rows], modality, BATCH)
    table = FeatureTable(records, {"global": torch.from_numpy(features)}, cosine_distance)
    return table.evaluate(find_protocol("cross-ir2vis")).summary.mean()["rank1"]


def torch_row(bundle, precision, compiled, crops, records, seconds):
    """Measure PyTorch in one precision; compiled, the bare network only, since `vireid embed` does not compile."""
    model = Embedder.load(bundle, precision=PRECISIONS[precision])
    if compiled:
        model.method.features = torch.compile(model.method.features)
        return {"bare": bare(model, seconds), "embed": None, "rank1": rank1(model, records)}
    speed = max(bare(model, seconds), bare(model, seconds, os.cpu_count()))
    torch.set_num_threads(os.cpu_count())
    return {"bare": speed, "embed": end_to_end(bundle, precision, crops), "rank1": rank1(model, records)}


def onnx_row(file, crops, records, seconds):
    """Measure an exported pair of graphs."""
    shared, single = OnnxEmbedder(file), OnnxEmbedder(file, threads=1)
    speed = max(bare(shared, seconds), bare(single, seconds, os.cpu_count()))
    return {"bare": speed, "embed": end_to_end(file, "auto", crops), "rank1": rank1(shared, records)}


def rows(bundle, records, crops, folder, seconds, compiled):
    """Yield (engine, precision, figures)."""
    test = records.where(split="test")
    for precision in ("float32", "bfloat16"):
        yield "torch", precision, torch_row(bundle, precision, False, crops, test, seconds)
    for precision in ("float32", "bfloat16") if compiled else ():
        yield COMPILED, precision, torch_row(bundle, precision, True, crops, test, seconds)
    for precision, images in (("fp32", None), ("int8", records)):
        file = folder / f"{precision}.onnx"
        try:
            export_onnx(bundle, file, precision, images)
        except InputError as refusal:
            print(f"ONNX Runtime  {precision}: refused, {refusal}")
            continue
        yield "ONNX Runtime", precision, onnx_row(file, crops, test, seconds)


def main(
    bundle: Annotated[Path, typer.Argument(help="of any method but a refiner")],
    root: Annotated[Path, typer.Argument(help="folder of vireid synth: rank-1, and what int8 is calibrated by")],
    crops: Annotated[Path | None, typer.Option(help="folder of crops; default: 400x200 JPEGs written for it")] = None,
    images: Annotated[int, typer.Option(help="crops to write")] = 10_000,
    seconds: Annotated[float, typer.Option(help="of each measurement of the bare network")] = 20.0,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile")] = shutil.which("c++") is not None,
    out: Annotated[Path | None, typer.Option("--json", help="write the figures")] = None,
) -> None:
    """Print the table."""
    print_header()
    records = open_dataset("synthetic", root)
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if crops is None:
            crops = folder / "crops"
            crops.mkdir()
            write_images(crops, images)
        count = len(find_images([crops]))
        print(f"{count} crops, {bundle}, batches of {BATCH}")
        print(f"{'':14s}{'precision':12s}{'bare':>10s}{'embed':>10s}  embed/bare   rank-1 on {root.name}")
        for engine, precision, row in rows(bundle, records, crops, folder, seconds, compiled):
            figures.append({"engine": engine, "precision": precision, **row})
            speed = f"{row['embed']:10.1f}{row['embed'] / row['bare']:12.2f}" if row["embed"] else f"{'':22s}"
            print(f"{engine:14s}{precision:12s}{row['bare']:10.1f}{speed}{100 * row['rank1']:10.2f}", flush=True)
    if out is not None:
        text = {
            "command": sys.argv,
            "crops": count,
            "rows": figures,
            "environment": describe_environment(),
        }
        out.write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
