"""Image files to files of vectors: what every engine of `vireid embed` does with a part of the images."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vireid.data.images import Pixels, decode
from vireid.errors import InputError
from vireid.files import replacing, shown
from vireid.onnx_embedder import SUFFIX, OnnxEmbedder, graph_file
from vireid.records import Modality
from vireid.weights import find

if TYPE_CHECKING:
    from vireid.embedder import Embedder


@dataclass(frozen=True)
class Job:
    """What the vectors of a run depend on besides the images.

    Attributes:
        model: a bundle or an ONNX model, see `open_model`.
        modality: of all images.
        batch_size: images per forward pass.
        precision: one of `vireid.precision.PRECISIONS`.
    """

    model: Path
    modality: Modality
    batch_size: int = 32
    precision: str = "auto"


@dataclass(frozen=True)
class Part:
    """Consecutive images, and the Parquet file for their `path`, `embedding` and, where one is bad, `reason`."""

    file: Path
    paths: list[Path] = field(repr=False)

    def batches(self, size: int) -> list[list[Path]]:
        """Return the images in groups of `size`."""
        return [self.paths[start : start + size] for start in range(0, len(self.paths), size)]


Engine = Callable[[Job, Sequence[Part]], Iterator[int]]
"""Writes the files of parts and yields, every now and then, how many more images are done."""


def model_file(job: Job) -> Path:
    """Return the file of a job's model; of a pair of graphs, its modality's."""
    pair = job.model.suffix == SUFFIX and not job.model.is_file()
    return graph_file(job.model, job.modality) if pair else find(job.model)


def open_model(job: Job) -> Embedder | OnnxEmbedder:
    """Open a bundle, or an `.onnx` file of `vireid export`, for which PyTorch is not imported.

    Raises:
        InputError: when the file is neither, or a precision is asked of an ONNX model.
    """
    if job.model.suffix == SUFFIX:
        if job.precision != "auto":
            raise InputError(f"{job.model} has its precision inside: drop --precision and give it to vireid export")
        return OnnxEmbedder(model_file(job), threads=1)
    from vireid.embedder import Embedder
    from vireid.precision import PRECISIONS

    return Embedder.load(job.model, precision=PRECISIONS[job.precision])


def on_threads(job: Job, parts: Sequence[Part], threads: int | None = None) -> Iterator[int]:
    """Embed parts in this process: each thread decodes a batch and runs the network on it, alone on its core.

    Cores that share the work of one batch wait for each other at every layer, and for whoever decodes.

    Args:
        job: the model and how to run it.
        parts: what to embed.
        threads: default: one per core.
    """
    model = open_model(job)
    batches = [paths for part in parts for paths in part.batches(job.batch_size)]
    pool = ThreadPoolExecutor(threads or os.cpu_count(), initializer=_one_core)
    try:
        tables = pool.map(partial(_embed, model, job.modality), batches)
        for part in parts:
            own = []
            for table in islice(tables, len(part.batches(job.batch_size))):
                own.append(table)
                yield len(table)
            with replacing(part.file) as temporary:
                pq.write_table(pa.concat_tables(own), temporary, use_dictionary=False)
    finally:
        pool.shutdown(cancel_futures=True)


def _one_core() -> None:
    """Keep PyTorch's work of this thread, and of threads made later, in the thread; ONNX models are opened so."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _embed(model: Embedder | OnnxEmbedder, modality: Modality, paths: list[Path]) -> pa.Table:
    images: list[Pixels] = []
    reasons: list[str | None] = []
    for path in paths:
        try:
            images.append(decode(path, model.image_size)[0])
            reasons.append(None)
        except InputError as error:
            reasons.append(str(error))
    vectors = np.zeros((len(paths), model.embedding_dim), np.float32)
    vectors[[reason is None for reason in reasons]] = model.embed(images, modality, len(paths))
    columns = {
        "path": pa.array([shown(path) for path in paths]),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), model.embedding_dim),
        "reason": pa.array(reasons, pa.string()),
    }
    return pa.table(columns)
