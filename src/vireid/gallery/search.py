"""From a query to an answer: the nearest tracks, what their similarity means, and an honest "no match"."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection

from vireid.errors import InputError
from vireid.gallery import confirmations, items
from vireid.gallery.calibration import PairCalibration
from vireid.gallery.query import Query
from vireid.gallery.reranking import RERANKERS, Head, Reranker, rerank_order
from vireid.gallery.settings import read_settings
from vireid.gallery.types import (
    EVERYTHING,
    Candidate,
    Filter,
    Item,
    SearchResult,
    State,
    Track,
    Use,
    Verdict,
    check_use,
    utc_now,
)
from vireid.records import Modality

if TYPE_CHECKING:
    from vireid.gallery.gallery import Gallery

MESSAGES: dict[Verdict, str] = {
    "candidates": "Candidates ranked by similarity: a person must check every one.",
    "no match above the threshold": "No match above the threshold.",
    "not calibrated": (
        "Candidates ranked by similarity, not calibrated: how alike they are cannot be said, "
        "and the list is never empty even when the person is not there. Run vireid calibrate."
    ),
    "nothing to search": "No item of the gallery meets the filter.",
}

DEEPEST = 16_384
"""Most items that one search looks at to fill its tracks."""


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        k: tracks to return; fewer where the nearest `DEEPEST` items hold fewer.
        where: which items count.
        rerank: a name in `RERANKERS`, a reranker, or None.
        rerank_top: tracks that are re-ranked.
        include_below: also return candidates below the calibrated threshold.
    """

    k: int = 20
    where: Filter = EVERYTHING
    rerank: str | Reranker | None = None
    rerank_top: int = 100
    include_below: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 1000 or not 1 <= self.rerank_top <= 1000:
            raise InputError(f"k={self.k}, rerank_top={self.rerank_top}: ask for 1 to 1000 candidates")
        if isinstance(self.rerank, str) and self.rerank not in RERANKERS:
            raise InputError(f"unknown re-ranking {self.rerank!r}: use {', '.join(RERANKERS)}")

    @property
    def rerank_name(self) -> str | None:
        """Name of the re-ranking for the result and the log."""
        return self.rerank if self.rerank is None or isinstance(self.rerank, str) else self.rerank.name


@dataclass(frozen=True)
class Best:
    """A track's item that is most similar to a query.

    Attributes:
        key: of the item.
        track: its track.
        similarity: to the query.
        place: among the items searched, 1 is the most similar.
        pair: what the similarity means, None where no calibration says.
    """

    key: int
    track: str
    similarity: float
    place: int
    pair: PairCalibration | None = None

    @property
    def above(self) -> bool | None:
        """Whether the similarity reaches its pair's threshold, None where there is none."""
        return None if self.pair is None else self.similarity >= self.pair.threshold

    @property
    def group(self) -> int:
        """Those above their threshold come before those without one, and these before those below."""
        return {True: 0, None: 1, False: 2}[self.above]

    @property
    def order(self) -> tuple[int, float]:
        """Sorts by group, and in it by what compares: log odds, or similarities where nothing is calibrated."""
        strength = self.similarity if self.pair is None else self.pair.log_odds(self.similarity)
        return self.group, -strength


def search(gallery: Gallery, queries: Sequence[Query], use: Use, options: SearchOptions) -> list[SearchResult]:
    """Answer queries, one engine batch for all; every answer is in the audit log before it is returned.

    Raises:
        InputError: without a purpose and a case where the gallery asks for them.
    """
    started, clock = utc_now(), perf_counter()
    if use.lacks:  # before vectors are read
        check_use(use, read_settings(gallery.database, gallery.location).require_purpose)
    gallery.refresh()  # settings and calibration too
    found = nearest_tracks(gallery, queries, options)
    results = []
    with gallery.database.read() as records:
        heads = [_head(records, gallery, query, best, options) for query, best in zip(queries, found, strict=True)]
        item = items.items_by_key(records, {b.key for head in heads for b in head})
        track = items.tracks_of(records, {b.track for head in heads for b in head})
        for query, best, head in zip(queries, found, heads, strict=True):
            states = confirmations.states(records, use.case, query.fingerprint)
            candidates = _candidates(head, item, track, states)
            verdict = _verdict(best, candidates)
            results.append(_result(query, verdict, candidates, options, perf_counter() - clock))
    gallery.audit.append_all([_entry(gallery, result, use, options, started) for result in results])
    return results


def _result(
    query: Query, verdict: Verdict, candidates: list[Candidate], options: SearchOptions, seconds: float
) -> SearchResult:
    return SearchResult(
        id=secrets.token_hex(8),
        verdict=verdict,
        message=MESSAGES[verdict],
        candidates=tuple(candidates),
        query=query.fingerprint,
        rerank=options.rerank_name,
        seconds=seconds,
    )


def _entry(
    gallery: Gallery, result: SearchResult, use: Use, options: SearchOptions, started: datetime
) -> dict[str, Any]:
    return gallery.audit.entry(
        "search",
        use,
        started=started,
        query=result.query,
        filter=options.where.model_dump(mode="json", exclude_none=True),
        results=[candidate.item.id for candidate in result.candidates],
        details={"search": result.id, "verdict": result.verdict, "rerank": result.rerank, "k": options.k},
    )


def nearest_tracks(gallery: Gallery, queries: Sequence[Query], options: SearchOptions) -> list[list[Best]]:
    """Return the nearest tracks of each query by their most similar item, in `Best.order`.

    A calibrated gallery is searched by modality: the similarities of two pairs of modalities do not compare, so the
    nearest of one could hide those of the other that are above their threshold.
    """
    calibration, where = gallery.calibration, options.where
    if calibration is None:
        return _nearest(gallery, queries, options, where)
    found: list[list[Best]] = [[] for _ in queries]
    for modality in Modality if where.modality is None else (where.modality,):
        only = where.model_copy(update={"modality": modality})
        for i, best in enumerate(_nearest(gallery, queries, options, only)):
            pair = calibration.of(queries[i].modality, modality)
            found[i] += [replace(b, pair=pair) for b in best]
    return [sorted(best, key=lambda b: b.order) for best in found]


def _nearest(gallery: Gallery, queries: Sequence[Query], options: SearchOptions, where: Filter) -> list[list[Best]]:
    wanted = max(options.k, options.rerank_top) if options.rerank else options.k
    matrix = np.stack([query.vector for query in queries]) if queries else np.empty((0, gallery.settings.dim))
    depth = min(wanted * gallery.items_per_track, DEEPEST)
    while True:
        hits = gallery.nearest(matrix, depth, where)
        rows = zip(queries, hits.keys.tolist(), hits.scores.tolist(), hits.tracks.tolist(), strict=True)
        found = [_best_by_track(query, zip(*row, strict=True), wanted) for query, *row in rows]
        short = any(len(best) < wanted and keys[-1] >= 0 for best, keys in zip(found, hits.keys, strict=True))
        if not short or depth >= DEEPEST:
            needed = max((best[-1].place for best in found if best), default=0)
            gallery.items_per_track = max(4, min(64, 1 + 5 * needed // (4 * wanted)))
            return found
        depth = min(4 * depth, DEEPEST)


def _best_by_track(query: Query, hits: Iterable[tuple[int, float, str]], wanted: int) -> list[Best]:
    best: dict[str, Best] = {}
    for place, (key, similarity, track) in enumerate(hits, start=1):
        if key >= 0 and track != query.track:
            best.setdefault(track, Best(key, track, similarity, place))
    return list(best.values())[:wanted]


def _reranked(
    records: Connection, gallery: Gallery, query: Query, best: list[Best], options: SearchOptions
) -> list[Best]:
    if options.rerank is None or not best:
        return best
    stored = items.items_by_key(records, [b.key for b in best[: options.rerank_top]])
    there = [b for b in best[: options.rerank_top] if b.key in stored]
    settings = gallery.settings
    head = Head(
        ids=[stored[b.key].id for b in there],
        vectors=items.read_vectors(records, [b.key for b in there], settings.dtype, settings.dim),
        modality=np.array([int(stored[b.key].modality) for b in there]),
    )
    order = rerank_order(gallery, options.rerank, query, head)
    return [*(there[i] for i in order), *best[options.rerank_top :]]


def _head(records: Connection, gallery: Gallery, query: Query, best: list[Best], options: SearchOptions) -> list[Best]:
    """Return what a query's answer shows, re-ranked, in order."""
    ranked = _reranked(records, gallery, query, best, options)
    shown = [b for b in ranked if options.include_below or b.above is not False]
    return sorted(shown, key=lambda b: b.group)[: options.k]


def _candidates(
    head: list[Best], item: dict[int, Item], track: dict[str, Track], states: dict[str, State]
) -> list[Candidate]:
    """Return the candidates whose item and track are still stored."""
    found: list[Candidate] = []
    for b in head:
        if b.key not in item or b.track not in track:
            continue
        candidate = Candidate(
            rank=len(found) + 1,
            item=item[b.key],
            track=track[b.track],
            score=b.pair.score(b.similarity) if b.pair else None,
            false_positive_rate=b.pair.false_positive_rate(b.similarity) if b.pair else None,
            above_threshold=b.above,
            state=states.get(b.track, State.CANDIDATE),
        )
        found.append(candidate)
    return found


def _verdict(best: list[Best], candidates: list[Candidate]) -> Verdict:
    if not best:
        return "nothing to search"
    if any(candidate.above_threshold for candidate in candidates):
        return "candidates"
    if any(b.above is None for b in best):
        return "not calibrated"
    return "no match above the threshold"
