"""Vector engines: `flat` in memory, `milvus` beyond one machine."""

from __future__ import annotations

from importlib.util import find_spec

from vireid.errors import InputError
from vireid.gallery.engines.base import NO_TIME, Hits, ReadVectors, Rows, VectorEngine

__all__ = ["NO_TIME", "Hits", "ReadVectors", "Rows", "VectorEngine", "open_engine"]


def open_engine(spec: str, gallery_id: str, dim: int, read: ReadVectors) -> VectorEngine:
    """Return the engine that a gallery's settings name.

    Args:
        spec: `flat`, or `milvus:URI` with the URI of a server or the path of a Milvus Lite file.
        gallery_id: keeps the galleries of one server apart.
        dim: D, length of the vectors.
        read: where the stored vectors are.

    Raises:
        InputError: for another name, a library that is not installed, or a server that does not answer.
    """
    name, _, address = spec.partition(":")
    if spec == "flat":
        from vireid.gallery.engines.flat import FlatEngine

        return FlatEngine(dim, read)
    if name == "milvus" and address:
        if find_spec("pymilvus") is None:
            raise InputError("the milvus engine needs pymilvus: pip install 'vireid[milvus]'")
        from vireid.gallery.engines.milvus import MilvusEngine

        return MilvusEngine(address, f"vireid_{gallery_id}", dim)
    raise InputError(f"unknown engine {spec!r}: use flat, or milvus:URI such as milvus:http://localhost:19530")
