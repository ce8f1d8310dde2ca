"""The engine for galleries beyond one machine: any Milvus, by URI.

The same code drives a standalone server, the distributed cluster on Kubernetes and Milvus Lite (a path instead of a
URI, for trials only: one process at a time, slow). Vectors are ranked exactly (index FLAT); every read asks for
strong consistency, so that a row is found as soon as it was acknowledged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from grpc import RpcError
from numpy.typing import ArrayLike, NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from vireid.errors import BusyError, InputError
from vireid.gallery.engines.base import Hits, Rows, check_queries, time_range
from vireid.gallery.types import Filter

TOKEN_VARIABLE = "VIREID_MILVUS_TOKEN"
_MESSAGE_BYTES = 32 * 2**20
_TEXT_BYTES = 1024
_MOST_HITS = 16_384
_FAILURES = (MilvusException, RpcError)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        reason = str(error).partition("\n")[0]
        raise BusyError(f"the gallery's Milvus server has failed ({reason}): try again when it is mended") from error


class MilvusEngine:
    """See `VectorEngine`; what needs the server raises `BusyError` when it fails.

    Args:
        uri: of the server; credentials come from `$VIREID_MILVUS_TOKEN` as `user:password`.
        collection: made when it is not there.
        dim: D, length of the vectors.

    Raises:
        InputError: when the server does not answer.
    """

    shared = True

    def __init__(self, uri: str, collection: str, dim: int) -> None:
        self.dim = dim
        self._name = collection
        try:
            self._client = MilvusClient(uri, token=os.environ.get(TOKEN_VARIABLE, ""))
            if not self._client.has_collection(collection):
                self._create()
            self._client.load_collection(collection)
        except _FAILURES as error:
            raise InputError(f"Milvus at {uri} does not answer ({error}): start it, or mend the URI") from error

    @_explained()
    def add(self, rows: Rows) -> None:
        """See `VectorEngine.add`."""
        step = max(1, _MESSAGE_BYTES // (4 * self.dim + 256))
        for start in range(0, len(rows), step):
            self._client.upsert(self._name, [_entity(rows, i) for i in range(start, min(start + step, len(rows)))])

    @_explained()
    def search(self, queries: NDArray[np.float32], k: int, where: Filter) -> Hits:
        """See `VectorEngine.search`.

        Raises:
            InputError: for more than 16,384 hits, Milvus' limit.
        """
        queries = check_queries(queries, self.dim)
        if k > _MOST_HITS:
            raise InputError(f"{k} hits asked for: Milvus returns at most {_MOST_HITS} a query")
        answers = self._client.search(
            self._name,
            data=list(queries),
            limit=k,
            filter=expression(where),
            anns_field="vector",
            search_params={"metric_type": "IP"},
            output_fields=["track"],
            consistency_level="Strong",
        )
        result = Hits.none(len(queries), k)
        for row, hits in enumerate(answers):
            for column, hit in enumerate(sorted(hits, key=lambda hit: (-hit["distance"], hit["id"]))):
                result.keys[row, column], result.scores[row, column] = hit["id"], hit["distance"]
                result.tracks[row, column] = hit["entity"]["track"]
        return result

    @_explained()
    def delete(self, keys: ArrayLike | None = None) -> None:
        """See `VectorEngine.delete`."""
        gone = self._keys() if keys is None else np.asarray(keys, np.int64)
        for start in range(0, len(gone), 5000):
            self._client.delete(self._name, filter=f"id in {gone[start : start + 5000].tolist()}")

    @_explained()
    def count(self) -> int:
        """See `VectorEngine.count`."""
        answer = self._client.query(self._name, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(answer[0]["count(*)"])

    @_explained()
    def maintain(self) -> None:
        """Write out what is in memory and ask for deleted rows to be compacted away."""
        self._client.flush(self._name)
        self._client.compact(self._name)

    @_explained()
    def drop(self) -> None:
        """Remove the collection."""
        self._client.drop_collection(self._name)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _create(self) -> None:
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        schema.add_field("modality", DataType.INT64)
        schema.add_field("time", DataType.INT64)
        for name in ("camera", "track", "person"):
            schema.add_field(name, DataType.VARCHAR, max_length=_TEXT_BYTES)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        self._client.create_collection(self._name, schema=schema, index_params=index, consistency_level="Strong")

    def _keys(self) -> NDArray[np.int64]:
        iterator = self._client.query_iterator(
            self._name, filter="id >= 0", output_fields=["id"], consistency_level="Strong"
        )
        keys: list[int] = []
        while page := iterator.next():
            keys += [entity["id"] for entity in page]
        iterator.close()
        return np.array(keys, np.int64)


def expression(where: Filter) -> str:
    """Compile a filter into Milvus' language; texts are quoted as in JSON."""
    terms = [
        f"{name} in {json.dumps(list(wanted), ensure_ascii=False)}"
        for name, wanted in (("camera", where.cameras), ("track", where.tracks), ("person", where.persons))
        if wanted is not None
    ]
    if where.modality is not None:
        terms.append(f"modality == {int(where.modality)}")
    if (bounds := time_range(where)) is not None:
        terms += [f"time >= {bounds[0]}", f"time <= {bounds[1]}"]
    return " and ".join(terms)


def _entity(rows: Rows, i: int) -> dict[str, Any]:
    return {
        "id": int(rows.key[i]),
        "vector": rows.vector[i],
        "modality": int(rows.modality[i]),
        "time": int(rows.time[i]),
        "camera": rows.camera[i],
        "track": rows.track[i],
        "person": rows.person[i],
    }
