"""What `vireid plots swap` does: people in, and each of them as every other stands and is lit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vireid.bundle import load_bundle
from vireid.data.augment import standardize
from vireid.data.images import Pixels, pixels_of
from vireid.errors import InputError
from vireid.files import replacing
from vireid.methods.hicmd import HiCMD
from vireid.plots import swap_figure
from vireid.records import Modality, Records

Picture = tuple[Path, Modality]


def choose_pairs(records: Records, people: int, seed: int = 0) -> list[Picture]:
    """Choose one visible and one infrared image each of some people, of the test split where there is one.

    Returns:
        the visible images, then the infrared ones, of the same people in the same order.

    Raises:
        InputError: when too few people have images of both modalities.
    """
    test = records.where(split=("test", "query", "gallery"))
    records = test if len(test) else records
    rng = np.random.default_rng(seed)
    sides = [records.where(modality=modality) for modality in Modality]
    both = np.intersect1d(sides[0].pid[sides[0].pid >= 0], sides[1].pid)
    if len(both) < people:
        raise InputError(f"{len(both)} people at {records.root} have images of both modalities: ask for fewer people")
    chosen = rng.choice(both, people, replace=False)
    rows = [(side, rng.choice(np.flatnonzero(side.pid == pid))) for side in sides for pid in chosen]
    return [(side.absolute(row), Modality(side.modality[row])) for side, row in rows]


def draw_swap(bundle: Path, pictures: Sequence[Picture], out: Path) -> None:
    """Draw the grid of exchanged codes of N pictures into an image file.

    Raises:
        InputError: for a bundle without a generator, or no pictures.
    """
    method, card = load_bundle(bundle)
    if not isinstance(method, HiCMD):
        raise InputError(f"bundle {bundle} holds method {card.method}, which draws no people: give one of method hicmd")
    if not pictures:
        raise InputError("no pictures to exchange: name image files, or a data set by --data and --root")
    pixels = np.stack([pixels_of(path, card.image_size, modality) for path, modality in pictures])
    images = standardize(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, method.mean, method.std)
    swapped = method.generator.swap(images, torch.tensor([modality for _, modality in pictures]))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (method.mean, method.std))
    with replacing(out) as temporary:
        swap_figure(pixels, _to_pixels(swapped * std + mean)).savefig(
            temporary, format=out.suffix[1:] or "png", dpi=150
        )


def _to_pixels(images: Tensor) -> Pixels:
    return (images.clamp(0, 1) * 255).round().byte().movedim(-3, -1).numpy()
