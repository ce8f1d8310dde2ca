"""Refinement of features at test: of queries and gallery together, of each query alone, or of the top of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from vireid.bundle import bundle_digest, load_bundle
from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock
from vireid.evaluation.insertion import insert_queries
from vireid.methods.nformer import NFormer
from vireid.options import Options, checked, setting
from vireid.precision import default_device

SEQUENCES = 16
"""Queries that are re-ranked at a time."""


class RefineOptions(Options):
    """How a refiner is used at test."""

    mode: Literal["joint", "isolated", "local"] = Field(
        "joint",
        description="joint: all queries and the gallery in one set; isolated: each query by itself; local: the top of "
        "each ranking",
    )
    top: int = Field(200, gt=0, description="gallery images that `local` re-ranks")
    blend: float = Field(1.0, ge=0, le=1, description="weight of the refined against the encoder's distance in `local`")
    draws: int = Field(1, gt=0, description="draws of landmarks whose features are averaged")
    seed: int = Field(0, ge=0, description="of the landmarks")

    @classmethod
    def parse(cls, settings: Sequence[str]) -> RefineOptions:
        """Read the `key=value` strings of `--refine-set`.

        Raises:
            InputError: naming the setting that is wrong.
        """
        return checked(cls, dict(setting("--refine-set", text, "mode=local") for text in settings), "--refine-set")


@dataclass(frozen=True)
class Refinement:
    """A refiner and how to use it.

    Attributes:
        refiner: in eval mode.
        options: how to use it.
        name, digest, selection: file name, SHA-256 and choice of checkpoint of its bundle, for the stamp.
    """

    refiner: NFormer
    options: RefineOptions = field(default_factory=RefineOptions)
    name: str = ""
    digest: str = ""
    selection: str = ""

    @classmethod
    def open(cls, path: Path, encoder: Path, options: RefineOptions) -> Refinement:
        """Load a refiner's bundle for the features of an encoder's bundle.

        Raises:
            InputError: when the bundle is no refiner, or was trained on the features of another encoder.
        """
        refiner, card = load_bundle(path)
        if not isinstance(refiner, NFormer):
            raise InputError(f"--refine {path}: this bundle is method {card.method}, no refiner such as nformer")
        if card.encoder != bundle_digest(encoder):
            raise InputError(
                f"refiner {path} was trained on the features of another encoder than {encoder}: evaluate that encoder, "
                "or train a refiner with --set encoder=…"
            )
        return cls(refiner.to(default_device()), options, path.name, bundle_digest(path), card.selection)

    @property
    def transductive(self) -> bool:
        """Whether a query's result depends on the other queries."""
        return self.options.mode == "joint"

    def stamp(self) -> dict[str, Any]:
        """Return what a refined result depends on: its use, and the bundle and its checkpoint."""
        local = ("top", "blend") if self.options.mode == "local" else ()
        use = {"bundle": self.name, **self.options.model_dump(include={"mode", "draws", "seed", *local})}
        return {"refine": use, "refiner_sha256": self.digest, "refiner_checkpoint": self.selection}

    @torch.inference_mode()
    def refine(
        self, query: Tensor, gallery: Tensor, query_modality: Tensor, gallery_modality: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return refined unit features of queries and gallery, on the CPU; `local` has none and returns them as given.

        Args:
            query, gallery: (Q, D) and (G, D) features of the encoder.
            query_modality, gallery_modality: (Q,) and (G,).
        """
        if self.options.mode == "local":
            return query, gallery
        device = self.refiner.neck.weight.device
        sides = self.refiner.tokens(query.to(device)), self.refiner.tokens(gallery.to(device))
        kinds = query_modality.to(device), gallery_modality.to(device)
        if self.options.mode == "isolated":
            inserted = insert_queries(self.refiner.transformer, *sides, *kinds, generators(self.options))
            draws = [(self.refiner.output(query), self.refiner.output(gallery)) for query, gallery in inserted]
        else:
            draws = [self._refine(*sides, *kinds, generator) for generator in generators(self.options)]
        left, right = (F.normalize(torch.stack(parts).mean(0), dim=1).cpu() for parts in zip(*draws, strict=True))
        return left, right

    def _refine(
        self, query: Tensor, gallery: Tensor, query_modality: Tensor, gallery_modality: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        modality = torch.cat([query_modality, gallery_modality])
        out = self.refiner.refine(torch.cat([query, gallery]), modality, generator)
        return out[: len(query)], out[len(query) :]

    def rerank(
        self,
        distances: DistanceBlock,
        query: Tensor,
        gallery: Tensor,
        query_modality: Tensor,
        gallery_modality: Tensor,
    ) -> DistanceBlock:
        """Return distances of which each query's `top` smallest are ranked anew, all of them before the others.

        Args:
            distances: of the encoder's features, (b, G) for a slice of the queries.
            query, gallery: (Q, D) and (G, D) features of the encoder.
            query_modality, gallery_modality: (Q,) and (G,).
        """
        device = self.refiner.neck.weight.device
        left, right = (self.refiner.tokens(side.to(device)) for side in (query, gallery))
        query_modality, gallery_modality = query_modality.to(device), gallery_modality.to(device)

        @torch.inference_mode()
        def block(rows: slice) -> Tensor:
            table = torch.as_tensor(distances(rows)).clone()
            best = table.topk(min(self.options.top, table.shape[1]), dim=1, largest=False)
            few = (part.split(SEQUENCES) for part in (left[rows], query_modality[rows], best.indices))
            scores = [
                _local_scores(
                    self.refiner,
                    torch.cat([own[:, None], right[top]], 1),
                    torch.cat([kind[:, None], gallery_modality[top]], 1),
                    self.options,
                )
                for own, kind, top in zip(*few, strict=True)
            ]
            anew = torch.lerp(best.values, 1 - torch.cat(scores).to(table), self.options.blend)
            before = best.values.amin(1, keepdim=True) - 1 - anew.amax(1, keepdim=True)
            return table.scatter_(1, best.indices, anew + before)

        return block


@torch.inference_mode()
def rerank_top(
    refiner: NFormer,
    query: Tensor,
    items: Tensor,
    query_modality: Tensor | None = None,
    item_modality: Tensor | None = None,
    options: RefineOptions | None = None,
) -> Tensor:
    """Score the top n of each query's search anew, each query with its items as a set of their own.

    Args:
        refiner: in eval mode.
        query: (B, D) features of the encoder.
        items: (B, n, D) features of the gallery.
        query_modality: (B,); default: all infrared.
        item_modality: (B, n); default: all visible.
        options: draws and seed of the landmarks, which are drawn among the items, and `blend`.

    Returns:
        (B, n) cosines of refined features, blended with the encoder's, on the CPU, higher is better.
    """
    options = options or RefineOptions()
    batch, n = items.shape[:2]
    first = torch.ones(batch, dtype=torch.int64) if query_modality is None else query_modality
    others = torch.zeros(batch, n, dtype=torch.int64) if item_modality is None else item_modality
    device = refiner.neck.weight.device
    tokens = refiner.tokens(torch.cat([query[:, None], items], 1).to(device).flatten(0, 1)).view(batch, n + 1, -1)
    modality = torch.cat([first[:, None], others], 1).to(device)
    parts = zip(tokens.split(SEQUENCES), modality.split(SEQUENCES), strict=True)
    refined = torch.cat([_local_scores(refiner, *part, options) for part in parts]).cpu()
    return torch.lerp(F.cosine_similarity(query[:, None], items, dim=2).cpu(), refined, options.blend)


def _local_scores(refiner: NFormer, tokens: Tensor, modality: Tensor, options: RefineOptions) -> Tensor:
    transformer, outputs = refiner.transformer, []
    for draw in range(options.draws):
        landmarks = [transformer.draw(kinds[None, 1:], generators(options)[draw]) + 1 for kinds in modality]
        outputs.append(refiner.output(transformer(tokens, torch.cat(landmarks), modality)))
    out = F.normalize(torch.stack(outputs).mean(0), dim=2)
    return (out[:, 1:] @ out[:, :1].mT).squeeze(2)


def generators(options: RefineOptions) -> list[Generator]:
    """Return a fresh generator for each draw of landmarks."""
    return [Generator().manual_seed(options.seed + draw) for draw in range(options.draws)]
