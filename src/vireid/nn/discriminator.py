"""Patch discriminators at several scales (Wang et al., pix2pixHD, CVPR 2018; Hi-CMD's form of it)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vireid.nn.generator import ResidualBlock, activation, conv, initialize


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator each for the image at full, half and quarter size, without any norm.

    Args:
        width: channels of the first convolution; Hi-CMD's code has 32.
        scales: number of sizes.

    Shape: (N, 3, H, W) -> `scales` maps (N, 1, H/4, W/4), (N, 1, H/8, W/8), ….
    """

    def __init__(self, width: int = 32, scales: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_patches(width) for _ in range(scales))
        initialize(self, "normal")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, the finest first."""
        maps = []
        for discriminator in self.scales:
            maps.append(discriminator(images))
            images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
        return maps


def _patches(width: int) -> nn.Sequential:
    steps = (
        (3, width, 1, 1),
        (width, width, 3, 1),
        (width, width, 3, 2),
        (width, width, 3, 1),
        (width, 2 * width, 3, 2),
    )
    layers = [layer for step in steps for layer in (conv(*step), activation())]
    blocks = [ResidualBlock(2 * width, norm=False) for _ in range(4)]
    return nn.Sequential(*layers, *blocks, conv(2 * width, 1, 1))
