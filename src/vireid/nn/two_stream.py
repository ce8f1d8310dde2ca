"""One trunk with modality-specific first stages."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from vireid.nn.backbone import STAGES, Backbone
from vireid.records import Modality

SpecificUntil = Literal["none", "stem", "layer1", "layer2"]


class TwoStream(nn.Module):
    """Modality-specific stages up to `specific_until`, shared stages after them (Ye et al., AGW).

    Rows are routed by modality, so counts may differ and one modality alone works. The shared BatchNorms see
    the mixed batch, the specific ones a single modality each. `none` shares everything.

    Shape: images (N, 3, H, W), modality (N,) -> (N, dim, H/16, W/16).
    """

    def __init__(self, backbone: Backbone, specific_until: SpecificUntil = "stem") -> None:
        super().__init__()
        split = 0 if specific_until == "none" else STAGES.index(specific_until) + 1
        stages = list(backbone.stages.values())
        streams = [backbone.stream(modality)[:split] for modality in Modality] if split else []
        self.specific = nn.ModuleList(nn.Sequential(*copy.deepcopy(stream)) for stream in streams)
        self.shared = nn.Sequential(*stages[split:])

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        """Return the last feature map."""
        return self.shared(route(self.specific, images, modality))


def route(streams: nn.ModuleList, rows: Tensor, modality: Tensor) -> Tensor:
    """Send each row through the module of its modality and put the results back in the rows' order.

    A single module is for both modalities, and without one the rows stay as they are.
    """
    if len(streams) < 2:
        return streams[0](rows) if streams else rows
    order = torch.argsort(modality, stable=True)
    counts = torch.bincount(modality, minlength=len(streams)).tolist()
    if max(counts) == len(rows):
        return streams[counts.index(max(counts))](rows)
    parts = rows[order].split(counts)
    out = torch.cat([stream(part) for stream, part in zip(streams, parts, strict=True) if len(part)])
    return out[torch.argsort(order)]
