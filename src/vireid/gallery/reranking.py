"""A second look at the head of an answer."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vireid.errors import InputError
from vireid.evaluation import k_reciprocal_rerank

if TYPE_CHECKING:
    from vireid.evaluation.refine import Refinement
    from vireid.gallery.gallery import Gallery
    from vireid.gallery.query import Query

Scores = NDArray[np.float32]
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Head:
    """The items that are ranked again, one per track.

    Attributes:
        ids: of n items.
        vectors: (n, D) their embeddings.
        modality: (n,) int64, see `Modality`.
    """

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    modality: NDArray[np.int64]


class Reranker(Protocol):
    """Ranks a head again; `name` is what results and the audit log call it."""

    @property
    def name(self) -> str:
        """Name for the log."""
        ...

    def rerank_top(self, query: Query, head: Head) -> Scores:
        """Return a new similarity (n,) of the query to each item of the head."""
        ...


@dataclass(frozen=True)
class NFormerReranker:
    """Refined features of each query and its head as a set of their own (NFormer, section 3).

    Attributes:
        refinement: opened for the gallery's bundle, see `Refinement.open`.
    """

    refinement: Refinement
    name: str = "nformer"

    @classmethod
    def open(cls, bundle: Path, gallery: Gallery) -> NFormerReranker:
        """Load a refiner that was trained on the features of a gallery's bundle.

        Raises:
            InputError: for a refiner of another bundle.
        """
        from vireid.evaluation.refine import Refinement, RefineOptions

        return cls(Refinement.open(bundle, Path(gallery.settings.bundle), RefineOptions(mode="local")))

    def rerank_top(self, query: Query, head: Head) -> Scores:
        """See `Reranker`.

        Raises:
            InputError: for a query of unknown modality.
        """
        from vireid.evaluation.refine import rerank_top

        if query.modality is None:
            raise InputError(f"re-ranking by {self.name} needs the query's modality: say which sensor saw it")
        scores = rerank_top(
            self.refinement.refiner,
            torch.from_numpy(query.vector)[None],
            torch.from_numpy(head.vectors)[None],
            torch.tensor([int(query.modality)]),
            torch.from_numpy(head.modality)[None],
            self.refinement.options,
        )
        return scores[0].numpy()


def k_reciprocal(gallery: Gallery, query: Query, head: Head) -> Scores:
    """Return minus the k-reciprocal distance (Zhong et al., CVPR 2017)."""
    return -k_reciprocal_rerank(query.vector[None], head.vectors)[0]


def parts(gallery: Gallery, query: Query, head: Head) -> Scores:
    """Return minus the method's own distance, as of parts or stripes, for which the head's crops are embedded again.

    Raises:
        InputError: for a query that came without its picture, or items that were stored without crops.
    """
    crops = [gallery.crop(item_id) for item_id in head.ids]
    if query.picture is None or query.modality is None or None in crops:
        raise InputError("re-ranking by parts needs the query's picture and all crops: search with a picture")
    embedder = gallery.embedder()
    first = embedder.features_of([query.picture], [query.modality])
    batches = [
        embedder.features_of(
            [Image.open(io.BytesIO(crop)) for crop in crops[start : start + _BATCH] if crop is not None],
            head.modality[start : start + _BATCH].tolist(),
        )
        for start in range(0, len(crops), _BATCH)
    ]
    others = {name: torch.cat([batch[name] for batch in batches]) for name in first}
    return -embedder.method.distance(first, others)[0].float().cpu().numpy()


RERANKERS: dict[str, Callable[[Gallery, Query, Head], Scores]] = {"k-reciprocal": k_reciprocal, "parts": parts}
"""Re-rankings that a gallery can do by itself, by name."""


def rerank_order(gallery: Gallery, rerank: str | Reranker, query: Query, head: Head) -> NDArray[np.int64]:
    """Return the order of a head after re-ranking, most similar first; a name is one of `RERANKERS`."""
    scores = RERANKERS[rerank](gallery, query, head) if isinstance(rerank, str) else rerank.rerank_top(query, head)
    return np.argsort(-scores, kind="stable")
