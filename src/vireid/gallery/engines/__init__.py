"""Vector engines: `flat` in memory, `milvus` beyond one machine."""

from __future__ import annotations

from importlib.util import find_spec

from vireid.errors import InputError
from vireid.gallery.engines.base import NO_TIME, Hits, ReadVectors, Rows, VectorEngine

__all__ = ["NO_TIME", "Hits", "ReadVectors", "Rows", "VectorEngine", "check_engine", "open_engine"]


def check_engine(spec: str) -> str:
    """Return the name of an engine that can be opened here.

    Raises:
        InputError: for another name, or a library that is not installed.
    """
    name, _, address = spec.partition(":")
    if spec != "flat" and not (name == "milvus" and address):
        raise InputError(f"unknown engine {spec!r}: use flat, or milvus:URI such as milvus:http://localhost:19530")
    if name == "milvus" and find_spec("pymilvus") is None:
        raise InputError("the milvus engine needs pymilvus: pip install '.[milvus]' in the checkout")
    return name


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
    if check_engine(spec) == "flat":
        from vireid.gallery.engines.flat import FlatEngine

        return FlatEngine(dim, read)
    from vireid.gallery.engines.milvus import MilvusEngine

    return MilvusEngine(spec.partition(":")[2], f"vireid_{gallery_id}", dim)
