"""What `vireid embed` does: files in, a Parquet table of vectors out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vireid.data.images import Pixels, Progress, decode
from vireid.errors import InputError
from vireid.files import replacing
from vireid.records import Modality

if TYPE_CHECKING:
    from vireid.embedder import Embedder
    from vireid.onnx_embedder import OnnxEmbedder

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_images(places: Iterable[Path]) -> list[Path]:
    """Return image files: files as given, folders searched below, sorted.

    Raises:
        InputError: for a place that does not exist, or when there is no image at all.
    """
    places = list(places)
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        elif place.exists():
            found.append(place)
        else:
            raise InputError(f"{place}: no such file or folder")
    if not found:
        raise InputError(f"no images under {', '.join(map(str, places))} ({', '.join(sorted(SUFFIXES))})")
    return found


def open_model(path: Path) -> Embedder | OnnxEmbedder:
    """Open a bundle, or an `.onnx` file of `vireid export`, for which PyTorch is not imported.

    Raises:
        InputError: when the file is neither.
    """
    if path.suffix == ".onnx":
        from vireid.onnx_embedder import OnnxEmbedder

        return OnnxEmbedder(path)
    from vireid.embedder import Embedder

    return Embedder.load(path)


def embed_files(
    bundle: Path, places: Iterable[Path], modality: str, out: Path, batch_size: int, progress: Progress | None = None
) -> tuple[int, list[str]]:
    """Embed image files into a Parquet file with columns `path`, `modality`, `embedding` (float32 list of D).

    Args:
        bundle: a bundle or an ONNX model, see `open_model`.
        places: image files and folders.
        modality: of all images.
        out: the Parquet file.
        batch_size: images a forward pass.
        progress: called with (images done, images in all).

    Returns:
        the number of embeddings written, and a sentence for each file that could not be read.

    Raises:
        InputError: when no file could be read.
    """
    kind = Modality.parse(modality)
    paths = find_images(places)
    embedder = open_model(bundle)
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("modality", pa.string()),
            ("embedding", pa.list_(pa.float32(), embedder.embedding_dim)),
        ]
    )
    bad: list[str] = []
    done = 0
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(paths), batch_size):
            read = _read(paths[start : start + batch_size], embedder.image_size, bad)
            if read:
                vectors = embedder.embed([pixels for _, pixels in read], kind, batch_size)
                column = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(vectors)), vectors.shape[1])
                names = [str(path) for path, _ in read]
                writer.write_table(pa.table([names, [str(kind)] * len(read), column], schema=schema))
                done += len(read)
            if progress is not None:
                progress(min(start + batch_size, len(paths)), len(paths))
        if not done:
            raise InputError(f"none of {len(paths)} files could be read; the first: {bad[0]}")
    return done, bad


def _read(paths: list[Path], size: tuple[int, int], bad: list[str]) -> list[tuple[Path, Pixels]]:
    read = []
    for path in paths:
        try:
            read.append((path, decode(path, size)[0]))
        except InputError as error:
            bad.append(str(error))
    return read
