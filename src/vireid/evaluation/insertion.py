"""Refine queries one by one against a gallery that has been refined without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from vireid.errors import InputError
from vireid.methods.nformer import LayerState, NeighborTransformer
from vireid.nn.neighbor_graph import nearest

QUERIES = 256


def insert_queries(
    transformer: NeighborTransformer,
    query: Tensor,
    gallery: Tensor,
    query_modality: Tensor,
    gallery_modality: Tensor,
    generators: Sequence[Generator],
) -> list[tuple[Tensor, Tensor]]:
    """Return what the transformer makes of queries and gallery when no query changes the gallery.

    A query joins the graph where it is nearer to a gallery item than the last of that item's neighbours. For one layer
    the result of a query is that of the full run on itself and the gallery; for more, its influence on the gallery's
    own states is left out, so that queries are independent of each other. Landmarks come from the gallery; neighbours
    do not depend on them and are found once.

    Args:
        transformer: in eval mode.
        query, gallery: (Q, D) and (N, D) tokens.
        query_modality, gallery_modality: (Q,) and (N,).
        generators: of the landmarks, one for each draw.

    Returns:
        for each generator, the last block's output for queries (Q, D) and gallery (N, D).

    Raises:
        InputError: for a graph by affinity, which is made anew in every layer.
    """
    if transformer.options.mask_source != "cosine":
        raise InputError("this refiner was trained with options.mask_source=affinity: use mode=joint or mode=local")
    graph = transformer.graph(gallery[None], gallery_modality[None])
    lists = insertion_lists(transformer, query, gallery, query_modality, gallery_modality, graph.index[0, 0])
    index, keep = (table.split(QUERIES) for table in lists)
    sides = []
    for generator in generators:
        states: list[LayerState] = []
        landmarks = transformer.draw(gallery_modality[None], generator)
        refined = transformer(gallery, landmarks, gallery_modality, states=states, graph=graph)
        parts = zip(query.split(QUERIES), index, keep, strict=True)
        sides.append((torch.cat([_insert(transformer, states, *part) for part in parts]), refined))
    return sides


def insertion_lists(
    transformer: NeighborTransformer,
    query: Tensor,
    gallery: Tensor,
    query_modality: Tensor,
    gallery_modality: Tensor,
    lists: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return each query's gallery neighbours (Q, R), -1 for none, and which of them would list the query in turn.

    `lists` (N, R) are the gallery's own neighbours.
    """
    options = transformer.options
    unit, items = transformer.directions(query, query_modality), transformer.directions(gallery, gallery_modality)
    if options.neighbor_mode == "joint":
        last, every = transformer.neighbors - 1, torch.ones(len(gallery), dtype=torch.bool, device=query.device)
        return _mutual(unit, items, last, _reach(items, lists, last), every)
    same, cross = options.same_neighbors, options.cross_neighbors
    reach = _reach(items, lists, same - 1), _reach(items, lists, same + cross - 1)
    index = torch.full((len(query), same - 1 + cross), -1, device=query.device)
    keep = torch.zeros_like(index, dtype=torch.bool)
    for m in query_modality.unique():
        rows = query_modality == m
        near = _mutual(unit[rows], items, same - 1, reach[0], gallery_modality == m)
        far = _mutual(unit[rows], items, cross, reach[1], gallery_modality != m)
        index[rows], keep[rows] = torch.cat([near[0], far[0]], 1), torch.cat([near[1], far[1]], 1)
    return index, keep


def _reach(items: Tensor, lists: Tensor, last: int) -> Tensor:
    """Return each item's cosine to the entry `last` of its list (N, R), -inf where the list has room."""
    room = torch.full((len(items),), -torch.inf, device=items.device, dtype=items.dtype)
    if last >= lists.shape[1]:
        return room
    ends = lists[:, last]
    return torch.where(ends < 0, room, (items * items[ends.clamp(min=0)]).sum(1))


def _mutual(unit: Tensor, items: Tensor, k: int, reach: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the k nearest allowed items of each query, (Q, k) with -1 for none, and whether the query is in reach."""
    index = torch.full((len(unit), k), -1, device=unit.device)
    rows = allowed.nonzero().flatten()
    if len(rows) and k:
        found = rows[nearest(unit, items[rows], k)]
        index[:, : found.shape[1]] = found
    cosine = torch.einsum("qd,qkd->qk", unit, items[index.clamp(min=0)])
    return index, (cosine > reach[index.clamp(min=0)]) & (index >= 0)


def _insert(
    transformer: NeighborTransformer, states: list[LayerState], x: Tensor, index: Tensor, keep: Tensor
) -> Tensor:
    """Run all layers for some queries (Q, D) with their own slot last."""
    index = index.clamp(min=0)
    for block, state in zip(transformer.layers(), states, strict=True):
        q, k, v = (part[0] for part in block.project(x[None]))
        left, right = transformer.scale * q @ state.landmark_keys.mT, k @ state.landmark_queries.mT
        logits = (state.factors[:, index] * left[:, :, None]).sum(3).masked_fill(~keep, -torch.inf)
        weights = torch.cat([logits, (left * right).sum(2, keepdim=True)], 2).softmax(2)
        out = torch.einsum("hqk,hqkd->hqd", weights[..., :-1], state.values[:, index]) + weights[..., -1:] * v
        x = block(x[None], out.transpose(0, 1).flatten(1)[None])[0]
    return x
