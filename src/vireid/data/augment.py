"""Training augmentation, vectorised over the batch, on the device the batch lies on.

Every random number comes from the generator that is passed in, so a step's augmentation depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, gaussian_blur

from vireid.errors import InputError
from vireid.options import Options
from vireid.records import FLIPPED_KEYPOINTS, Batch, Modality

ERASING_TRIES = 100
GRAY = (0.2989, 0.5870, 0.1140)
"""Luma weights of the channel augmentation (CAJ)."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole."""


def standardize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `(pixels - mean) / std` by channel of (N, 3, H, W) pixels in [0, 1], which is what networks read."""
    shift, scale = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (pixels - shift) / scale


class ChannelExchange(Options):
    """Replace all three channels by one: a random colour channel or their grey mix (CAJ, section 3.1).

    `rgb`: a copy of R, G or B, 1/3 each. `rgb_gray`: R, G, B or grey, 1/4 each. `adaptive`: R, G, B 1/4 each, else
    grey with probability `gray` and unchanged otherwise.
    """

    mode: Literal["none", "rgb", "rgb_gray", "adaptive"] = "none"
    gray: float = Field(0.5, ge=0, le=1, description="probability of grey within the last quarter of adaptive")
    space: Literal["normalized", "raw"] = Field("normalized", description="CAJ's code works on normalised planes")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Map (N, 3, H, W) images to images of the same shape."""
        if self.mode == "none" or not len(images):
            return images
        choice = torch.randint(3 if self.mode == "rgb" else 4, (len(images),), generator=generator)
        if self.mode == "adaptive":
            keep = torch.rand(len(images), generator=generator) >= self.gray
            choice[(choice == 3) & keep] = 4
        weights = torch.cat([torch.eye(3), torch.tensor([GRAY]), torch.zeros(1, 3)]).to(images)
        choice = choice.to(images.device)
        plane = (images * weights[choice][:, :, None, None]).sum(1, keepdim=True)
        return torch.where((choice == 4)[:, None, None, None], images, plane)


class ChannelRandomErasing(Options):
    """Fill a random rectangle with a constant per channel (CAJ's CRE; random erasing with other constants).

    Up to 100 draws of an area fraction and an aspect ratio h/w in [aspect, 1/aspect]; the first rectangle that fits
    strictly inside is used.
    """

    p: float = Field(0.0, ge=0, le=1)
    area: tuple[Share, Share] = Field((0.02, 0.4), description="least and largest share of the image")
    aspect: float = Field(0.3, gt=0, le=1)
    value: tuple[float, float, float] = Field((0.4914, 0.4822, 0.4465), description="written after normalisation")
    regions: Literal["shared", "per_channel"] = Field("shared", description="one rectangle, or one for each channel")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Map normalised (N, 3, H, W) images to images of the same shape."""
        if self.p == 0 or not len(images):
            return images
        mask = self.mask(len(images), images.shape[2:], generator).to(images.device)
        return torch.where(mask, images.new_tensor(self.value).view(1, 3, 1, 1), images)

    def mask(self, count: int, size: torch.Size, generator: Generator) -> Tensor:
        """Return the erased positions, (N, 1 or 3, H, W) bool."""
        height, width = size
        shape = (count, 3 if self.regions == "per_channel" else 1, ERASING_TRIES)
        area, ratio = torch.rand((2, *shape), generator=generator)
        area = height * width * (self.area[0] + area * (self.area[1] - self.area[0]))
        ratio = self.aspect + ratio * (1 / self.aspect - self.aspect)
        h, w = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (h < height) & (w < width)
        first = fits.long().argmax(-1, keepdim=True)
        h, w = h.gather(-1, first), w.gather(-1, first)
        top, left = torch.rand((2, *h.shape), generator=generator)
        top, left = (top * (height - h + 1)).long(), (left * (width - w + 1)).long()
        chosen = torch.rand(count, generator=generator) < self.p
        inside = (_span(top, h, height)[..., :, None] & _span(left, w, width)[..., None, :]).squeeze(2)
        return inside & fits.any(-1)[..., None, None] & chosen[:, None, None, None]


class JitterOrBlur(Options):
    """Change brightness and contrast, or blur: one of the two with equal probability (PMT's for infrared images).

    Every image has its own draws, so torchvision's functions are called image by image.
    """

    p: float = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.3, ge=0, le=1, description="factor within 1 - brightness and 1 + brightness")
    contrast: float = Field(0.3, ge=0, le=1, description="factor within 1 - contrast and 1 + contrast")
    radius: int = Field(10, ge=0, description="of the blur, 10 for a kernel of 21 x 21 pixels")
    sigma: tuple[PositiveFloat, PositiveFloat] = Field((0.1, 3.0), description="of the blur, in pixels")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Map (N, 3, H, W) images in [0, 1] to images of the same shape.

        Raises:
            InputError: for images that the blur, which mirrors their borders, is too wide for.
        """
        if self.p == 0 or not len(images):
            return images
        if self.radius >= min(images.shape[2:]):
            size = "x".join(map(str, images.shape[2:]))
            raise InputError(f"jitter_or_blur.radius={self.radius} is too wide for images of {size} pixels: lower it")
        out, (low, high) = images.clone(), self.sigma
        for row, (chosen, kind, *draws) in enumerate(torch.rand((len(images), 4), generator=generator).tolist()):
            if chosen >= self.p:
                continue
            if kind < 0.5:
                brightness, contrast = (2 * draw - 1 for draw in draws)
                bright = adjust_brightness(images[row], 1 + self.brightness * brightness)
                out[row] = adjust_contrast(bright, 1 + self.contrast * contrast)
            else:
                out[row] = gaussian_blur(images[row], [2 * self.radius + 1] * 2, [low + (high - low) * draws[0]])
        return out


class ViewAugment(Options):
    """What happens to one view after crop and flip: grey, jitter or blur, erasing, channel exchange, in this order."""

    gray: float = Field(0.0, ge=0, le=1, description="probability of three equal luma channels, in raw space")
    gray_epochs: int | None = Field(None, gt=0, description="grey in the first epochs only; null = in all")
    jitter_or_blur: JitterOrBlur = JitterOrBlur()
    erasing: ChannelRandomErasing = ChannelRandomErasing()
    exchange: ChannelExchange = ChannelExchange()


class Augment(Options):
    """The augmentation of a training batch.

    With `visible_twin`, every visible image enters the batch twice: as itself (view 0) and as an independently
    transformed twin (view 1), which is CAJ's joint learning.
    """

    pad: int = Field(10, ge=0, description="zero border in pixels before the random crop")
    flip: float = Field(0.5, ge=0, le=1)
    visible: ViewAugment = ViewAugment()
    infrared: ViewAugment = ViewAugment()
    visible_twin: ViewAugment | None = None

    def __call__(
        self, batch: Batch, mean: tuple[float, ...], std: tuple[float, ...], generator: Generator, epoch: int = 0
    ) -> Batch:
        """Turn a uint8 batch (N, 3, H, W) of an epoch (0-based) into a normalised, augmented float batch.

        Rows keep their order; twins follow the visible rows at the end of those.
        """
        if self.visible_twin is not None:
            batch = _with_twins(batch)
        batch = pad_crop_flip(batch, self.pad, self.flip, generator)
        images = batch.images.float() / 255
        views = [(self.visible, Modality.VISIBLE, 0), (self.infrared, Modality.INFRARED, 0)]
        if self.visible_twin is not None:
            views.append((self.visible_twin, Modality.VISIBLE, 1))
        out = standardize(images, mean, std)
        for view, modality, number in views:
            rows = ((batch.modality == modality) & (batch.view == number)).nonzero().squeeze(1)
            if len(rows) and view != ViewAugment():
                out[rows] = _apply(view, images[rows], mean, std, generator, epoch)
        return replace(batch, images=out)


def pad_crop_flip(batch: Batch, pad: int, flip: float, generator: Generator) -> Batch:
    """Zero-pad, crop back to the size at a random place and mirror with probability `flip`; keypoints move along."""
    n, _, height, width = batch.images.shape
    device = batch.images.device
    top, left = torch.randint(2 * pad + 1, (2, n), generator=generator).to(device)
    mirrored = (torch.rand(n, generator=generator) < flip).to(device)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    padded = F.pad(batch.images.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
    cropped = padded[torch.arange(n, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    points = batch.keypoints
    if points is not None:
        shift = torch.stack([pad - left, pad - top, torch.zeros_like(top)], dim=1)
        points = points + shift[:, None, :]
        points = torch.where(mirrored[:, None, None], flip_keypoints(points, width), points)
    return replace(batch, images=cropped.permute(0, 3, 1, 2), keypoints=points)


def flip_keypoints(keypoints: Tensor, width: int) -> Tensor:
    """Mirror (N, 18, 3) keypoints in an image of `width` pixels: left and right joints change places."""
    flipped = keypoints[:, FLIPPED_KEYPOINTS].clone()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def _with_twins(batch: Batch) -> Batch:
    visible = batch.take((batch.modality == Modality.VISIBLE) & (batch.view == 0))
    visible = replace(visible, view=torch.ones_like(visible.view))
    order = (batch.modality == Modality.VISIBLE).nonzero().squeeze(1)
    infrared = (batch.modality != Modality.VISIBLE).nonzero().squeeze(1)
    return Batch.cat([batch.take(order), visible, batch.take(infrared)])


def _apply(
    view: ViewAugment,
    raw: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    generator: Generator,
    epoch: int,
) -> Tensor:
    if view.gray and (view.gray_epochs is None or epoch < view.gray_epochs):
        gray = (torch.rand(len(raw), generator=generator) < view.gray).to(raw.device)
        luma = (raw * raw.new_tensor(GRAY).view(1, 3, 1, 1)).sum(1, keepdim=True)
        raw = torch.where(gray[:, None, None, None], luma, raw)
    raw = view.jitter_or_blur(raw, generator)
    if view.exchange.space == "raw":
        raw = view.exchange(raw, generator)
    out = view.erasing(standardize(raw, mean, std), generator)
    return out if view.exchange.space == "raw" else view.exchange(out, generator)


def _span(start: Tensor, length: Tensor, size: int) -> Tensor:
    positions = torch.arange(size)
    return (positions >= start[..., None]) & (positions < (start + length)[..., None])
