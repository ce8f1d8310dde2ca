"""An image as a map and a code, and back: the encoder and decoder of Hi-CMD (Choi et al., CVPR 2020).

The form is MUNIT's (Huang et al., ECCV 2018): instance-normalised convolutions with reflection padding, and a decoder
whose normalisation is steered by the code.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid.errors import InputError
from vireid.nn.precision import widen

SLOPE = 0.3
EPSILON = 1e-5
CHUNKS = 4
"""Pieces of a code; piece i steers the decoder's residual block i."""


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution with bias and reflection padding that keeps H / stride."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, padding_mode="reflect")


def instance_norm(channels: int) -> nn.GroupNorm:
    """Return an instance norm without parameters (as a group norm, which keeps channels-last maps as they are)."""
    return nn.GroupNorm(channels, channels, EPSILON, affine=False)


def activation() -> nn.LeakyReLU:
    """Return the activation of every module of Hi-CMD."""
    return nn.LeakyReLU(SLOPE)


def initialize(module: nn.Module, init: Literal["kaiming", "normal"]) -> None:
    """Start convolutions and linear layers with Kaiming-normal (fan-in) or N(0, 0.02) weights and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if init == "kaiming":
                nn.init.kaiming_normal_(layer.weight)
            else:
                nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(cast(nn.Parameter, layer.bias))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity, without an activation after the sum. Shape: (N, C, H, W) kept."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels, 3), conv(channels, channels, 3)
        self.norm = instance_norm(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        y = F.leaky_relu(self.norm(self.first(x)), SLOPE)
        return x + self.norm(self.second(y))


class PrototypeEncoder(nn.Module):
    """The spatial code of an image: a strided stem, four residual blocks, and atrous spatial pyramid pooling.

    Args:
        width: channels of the first convolution; the paper's code has 32. The map has `8 width` channels.

    Shape: (N, 3, H, W) -> (N, 8 width, H/4, W/4); H and W are multiples of 4 above 36.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        steps = ((3, w, 2), (w, 2 * w, 1), (2 * w, 2 * w, 1), (2 * w, 4 * w, 2))
        stem = [(conv(i, o, 3, stride), instance_norm(o), activation()) for i, o, stride in steps]
        self.stem = nn.Sequential(*[layer for layers in stem for layer in layers])
        self.blocks = nn.Sequential(*[ResidualBlock(4 * w, norm=True) for _ in range(4)])
        self.pyramid = nn.ModuleList([nn.Sequential(conv(4 * w, 2 * w, 1), instance_norm(2 * w))])
        for dilation in (3, 6, 9):
            narrow = (conv(4 * w, 2 * w, 1), instance_norm(2 * w), activation())
            self.pyramid.append(nn.Sequential(*narrow, conv(2 * w, 2 * w, 3, 1, dilation), instance_norm(2 * w)))
        self.fuse = nn.Sequential(conv(8 * w, 8 * w, 1), instance_norm(8 * w))
        initialize(self, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        """Return the prototype.

        Raises:
            InputError: for images of a size that the network cannot take.
        """
        height, width = images.shape[2:]
        if min(height, width) <= 36 or height % 4 or width % 4:
            raise InputError(
                f"images of {height} x {width} do not fit Hi-CMD's generator: set data.image_size to multiples of 4 "
                "above 36"
            )
        x = self.blocks(self.stem(images))
        return self.fuse(torch.cat([branch(x) for branch in self.pyramid], dim=1))


def adaptive_instance_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """AdaIN: `w (x - mean) / sqrt(var + 1e-5) + b` for each sample and channel (Huang and Belongie, ICCV 2017).

    Args:
        x: (N, C, H, W).
        weight, bias: (N, C); the weight is no deviation from 1.
    """
    return F.group_norm(x, x.shape[1], eps=EPSILON) * weight[:, :, None, None] + bias[:, :, None, None]


class MapNorm(nn.Module):
    """MUNIT's layer norm: `g (x - mean) / (std + 1e-5) + b`, one mean and one unbiased std a sample.

    g and b are one value per channel and start at U(0, 1) and 0. Shape: (N, C, H, W) kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = widen(x)
            variance, mean = torch.var_mean(x, (1, 2, 3), keepdim=True)
            return (x - mean) * (self.weight / (variance.sqrt() + EPSILON)) + self.bias


class AdaptiveBlock(nn.Module):
    """A residual block whose two norms take scale and shift from a chunk of the code.

    Args:
        channels: C of the map.
        chunk: width of the code's chunk.

    Shape: map (N, C, H, W), chunk (N, chunk) -> (N, C, H, W).
    """

    def __init__(self, channels: int, chunk: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels, 3), conv(channels, channels, 3)
        self.weight, self.bias = _perceptron(chunk, 2 * channels), _perceptron(chunk, 2 * channels)

    def forward(self, x: Tensor, chunk: Tensor) -> Tensor:
        """Return the sum."""
        (w1, w2), (b1, b2) = self.weight(chunk).chunk(2, 1), self.bias(chunk).chunk(2, 1)
        y = F.leaky_relu(adaptive_instance_norm(self.first(x), w1, b1), SLOPE)
        return x + adaptive_instance_norm(self.second(y), w2, b2)


def _perceptron(dim: int, out_dim: int) -> nn.Sequential:
    inner = (nn.Linear(out_dim, out_dim), activation(), nn.Linear(out_dim, out_dim))
    return nn.Sequential(nn.Linear(dim, out_dim), activation(), *inner)


class Decoder(nn.Module):
    """An image from a prototype and a code: four adaptive blocks, one for each quarter of the code, and upsampling.

    Args:
        channels: of the prototype.
        dim: width of the code, a multiple of 4.

    Shape: prototype (N, channels, h, w), code (N, dim) -> normalised image (N, 3, 4h, 4w), unbounded.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AdaptiveBlock(channels, dim // CHUNKS) for _ in range(CHUNKS))
        half, quarter = channels // 2, channels // 4
        self.up = nn.Sequential(
            *(nn.Upsample(scale_factor=2), conv(channels, half, 5), MapNorm(half), activation()),
            *(nn.Upsample(scale_factor=2), conv(half, quarter, 5), MapNorm(quarter), activation()),
            *(conv(quarter, quarter, 3), activation(), conv(quarter, quarter, 3), activation()),
            conv(quarter, 3, 1),
        )
        initialize(self, "kaiming")

    def forward(self, prototype: Tensor, code: Tensor) -> Tensor:
        """Return the images, in float32."""
        for block, chunk in zip(self.blocks, code.chunk(CHUNKS, dim=1), strict=True):
            prototype = block(prototype, chunk)
        return widen(self.up(prototype))
