"""`vireid embed --engine ray`: the parts of the local engine, embedded by the processes of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from vireid.embed_parts import Job, Part, on_threads
from vireid.errors import InputError
from vireid.weights import find


class Worker:
    """One process of the cluster: embeds the parts that it is given, one at a time.

    Args:
        job: the model and how to run it.
        folder: where the driver was started, which relative paths start from.
        threads: cores of the process.
    """

    def __init__(self, job: Job, folder: Path, threads: int) -> None:
        self.job, self.threads = job, threads
        os.chdir(folder)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed a batch of one part; a repeated attempt finds its file and does nothing."""
        (row,) = batch.to_pylist()
        part = Part(Path(row["file"]), [Path(path) for path in row["paths"]])
        try:
            if not part.file.is_file():
                for _ in on_threads(self.job, [part], self.threads):
                    pass
        except InputError as error:
            return pa.table({"images": [0], "error": [str(error)]})
        return pa.table({"images": [len(part.paths)], "error": [""]})


def on_ray(job: Job, parts: Sequence[Part], workers: int | None = None) -> Iterator[int]:
    """Embed parts on the cluster of `RAY_ADDRESS`, or of this machine; Ray repeats what a lost process had begun.

    Model, images and parts must lie on storage that all machines see under the same paths.

    Args:
        job: the model and how to run it.
        parts: what to embed.
        workers: processes; default: one per GPU, or one per core where there is none.

    Raises:
        InputError: when Ray is not installed, a worker meets an error, or the storage is not shared.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("--engine ray needs Ray: pip install '.[ray]' in the checkout") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cores, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    workers = workers or gpus or cores
    threads = max(1, cores // workers) if gpus else 1
    job = replace(job, model=find(job.model).resolve())
    rows = [{"file": str(part.file.resolve()), "paths": [str(path) for path in part.paths]} for part in parts]
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows))
    results = tasks.map_batches(
        Worker,
        fn_constructor_args=(job, Path.cwd(), threads),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=threads,
        num_gpus=1 if gpus else None,
    )
    for row in results.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield row["images"]
    if missing := [part.file for part in parts if not part.file.is_file()]:
        raise InputError(
            f"{missing[0]} was written on another machine: give an --out on storage that all machines share"
        )
