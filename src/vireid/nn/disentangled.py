"""Images as prototypes and attribute codes, one pair of encoders per modality and one decoder (Hi-CMD, CVPR 2020)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid.nn.generator import CHUNKS, Decoder, PrototypeEncoder
from vireid.nn.two_stream import route
from vireid.records import Modality

Views = dict[str, Tensor | Sequence[Tensor]]
"""Images by the view's name, then by modality."""


class Codes(NamedTuple):
    """Prototypes (…, C, h, w) and attribute codes (…, D) of images."""

    prototype: Tensor
    attribute: Tensor

    def stacked(self) -> Codes:
        """Stack rows (2 B, …) by modality, (2, B, …)."""
        return Codes(*(tensor.unflatten(0, (len(Modality), -1)) for tensor in self))


def split_attribute(code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take attribute codes (…, D) apart into style (…, D/2), pose (…, D/4) and illumination (…, D/4).

    Each of the decoder's chunks is 1/2 style, 1/4 pose, 1/4 illumination.
    """
    quarter = code.shape[-1] // CHUNKS // 4
    parts = code.unflatten(-1, (CHUNKS, -1)).split([2 * quarter, quarter, quarter], dim=-1)
    return cast(tuple[Tensor, Tensor, Tensor], tuple(part.flatten(-2) for part in parts))


def mix(style: Tensor, pose: Tensor, illumination: Tensor) -> Tensor:
    """Compose a code (…, D) of the style of one code, the pose of another and the illumination of a third."""
    parts = [split_attribute(code)[i].unflatten(-1, (CHUNKS, -1)) for i, code in enumerate((style, pose, illumination))]
    return torch.cat(parts, dim=-1).flatten(-2)


def fuse(body: Tensor, style: Tensor, alpha: Tensor) -> Tensor:
    """f0 = [min(alpha, 1) body / |body|; max(1 - alpha, 0) style / |style|], rows (N, D1), (N, D2) -> (N, D1 + D2)."""
    body, style = F.normalize(body.float()), F.normalize(style.float())
    return torch.cat([alpha.clamp(max=1) * body, (1 - alpha).clamp(min=0) * style], dim=1)


class CodeExchanger(nn.Module):
    """The encoders of both modalities and the decoder that they share.

    Args:
        width: of the prototype encoders, see `PrototypeEncoder`; they start equal.
        attribute_encoders: one per modality, (N, 3, H, W) -> (N, dim).
        dim: D, a multiple of 16.
        merge_calls: let the BatchNorms of an attribute encoder see all views of a batch together.
        freeze_norm: keep the statistics of those BatchNorms.
    """

    def __init__(
        self,
        width: int,
        attribute_encoders: Iterable[nn.Module],
        dim: int,
        merge_calls: bool = False,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        self.prototype_encoders = per_modality(PrototypeEncoder(width))
        self.attribute_encoders = nn.ModuleList(attribute_encoders)
        self.decoder = Decoder(8 * width, dim)
        self.merge_calls, self.freeze_norm = merge_calls, freeze_norm

    def encode(self, images: Tensor, modality: Tensor) -> Codes:
        """Return the codes of (N, 3, H, W) images of modalities (N,)."""
        return Codes(*(route(e, images, modality) for e in (self.prototype_encoders, self.attribute_encoders)))

    def encode_views(self, views: Views) -> dict[str, Codes]:
        """Encode images given by view and modality; a view's rows are the visible ones, then the infrared ones.

        One call of a modality's prototype encoder serves all views, since none of its layers mixes samples.
        """
        encoded: dict[str, list[Codes]] = {name: [] for name in views}
        for modality in Modality:
            own = {name: view[modality] for name, view in views.items() if len(view[modality])}
            sizes, rows = [len(view) for view in own.values()], torch.cat(list(own.values()))
            prototypes = self.prototype_encoders[modality](rows).split(sizes)
            encoder = self.attribute_encoders[modality]
            attributes = encoder(rows).split(sizes) if self.merge_calls else [encoder(view) for view in own.values()]
            for name, *codes in zip(own, prototypes, attributes, strict=True):
                encoded[name].append(Codes(*codes))
        return {name: Codes(*(torch.cat(c) for c in zip(*parts, strict=True))) for name, parts in encoded.items()}

    def decode(self, table: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Decode prototypes and codes (2, B, …) by name into images (2, B, 3, H, W), all in one batch."""
        prototypes, codes = (torch.cat(column).flatten(0, 1) for column in zip(*table.values(), strict=True))
        images = self.decoder(prototypes, codes).unflatten(0, (len(table), len(Modality), -1))
        return dict(zip(table, images, strict=True))

    @torch.no_grad()
    def swap(self, images: Tensor, modality: Tensor) -> Tensor:
        """Give every identity (row) every pose and illumination (column): (N, 3, H, W) -> (N, N, 3, H, W)."""
        prototype, attribute = self.encode(images, modality)
        rows = [mix(style.expand_as(attribute), attribute, attribute) for style in attribute]
        return torch.stack([self.decoder(prototype[[i] * len(rows)], row) for i, row in enumerate(rows)])

    def train(self, mode: bool = True) -> CodeExchanger:
        """Set the mode; frozen BatchNorms stay in eval mode."""
        super().train(mode)
        for module in self.attribute_encoders.modules():
            if self.freeze_norm and isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                module.eval()
        return self


def per_modality(module: nn.Module) -> nn.ModuleList:
    """Return one copy of a module for each modality."""
    return nn.ModuleList(copy.deepcopy(module) for _ in Modality)
